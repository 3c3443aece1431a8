"""The code that a Feast registry stores, looked at before Feast runs any of it.

Feast runs the stored text when it makes a view of it: also code around the function, and calls in its decorator,
defaults and annotations. Where the text does not run, Feast loads a pickle instead. So the text has to be one function
that does nothing until it is called. With a contract, it has to be the function that the contract recorded.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterator
from textwrap import dedent
from typing import TYPE_CHECKING, Any

from fti.contract.interface import ContractBroken, FeatureInterface

if TYPE_CHECKING:
    from feast import FeatureStore

# All that an annotation may consist of: none of it calls anything.
ANNOTATION = (
    ast.Name, ast.Attribute, ast.Constant, ast.Subscript, ast.Tuple, ast.List, ast.BinOp, ast.BitOr, ast.Load,
)  # fmt: skip
FIX = "Let its text be one function, under `@on_demand_feature_view(...)` and no other decorator"
NO_PICKLE = "so Feast would run a pickle in its place, which nobody can check"


def function_of(text: str) -> str:
    """Return the text of a function without its decorator.

    Feast keeps both as one text. A new description in the decorator changes no value, and the sources and schema are in
    the contract by themselves."""
    try:
        (function,) = ast.parse(dedent(text)).body
    except (SyntaxError, ValueError):  # not one function: all of it counts
        return text
    return "\n".join(text.split("\n")[function.lineno - 1 : function.end_lineno])


def digests_of(text: str) -> tuple[str, str]:
    """The hash of a view's function, and that of its whole text, which contracts had before."""
    of_function, of_text = (hashlib.sha256(one.encode()).hexdigest() for one in (function_of(text), text))
    return of_function, of_text


def require_checked(store: FeatureStore, feature_service: str, interface: FeatureInterface | None = None) -> None:
    """Check the stored code of a feature service, and of a contract's `interface` that it is the recorded one, before
    Feast makes a view of any. Raises ContractBroken, and what Feast raises when there is no such service."""
    read = {one.name for one in store.get_feature_service(feature_service).feature_view_projections}
    recorded = {view.name: view.code_sha256 for view in interface.on_demand_views} if interface else {}
    registry = store.registry.proto()
    for view in registry.on_demand_feature_views:
        if view.spec.project not in {"", store.project}:
            continue
        name, text = view.spec.name, view.spec.feature_transformation.user_defined_function.body_text
        if name in recorded and (digests := digests_of(text)) and recorded[name] not in digests:
            raise ContractBroken(
                f"Feature service {feature_service!r} has changed since the model was trained: on_demand_views.{name}."
                f"code_sha256: recorded {recorded[name]!r}, now {digests[0]!r}. A feature service never changes: put "
                "the old definition back, give the new one a new name, and run `feast -c feature_repo apply`."
            )
        if problem := problem_of(view):  # those that others read, too: Feast makes all of a project when it reads one
            raise ContractBroken(f"On-demand view {name!r} is refused before any of it is run: {problem}.")
        read |= {source.feature_view_projection.feature_view_name for source in view.spec.sources.values()}
    for stored in registry.feature_views:
        if stored.spec.name in read and stored.spec.HasField("feature_transformation"):
            raise ContractBroken(
                f"Feature view {stored.spec.name!r} holds code, which is refused before any of it is run: expected a "
                "plain FeatureView. Compute its features before they are stored."
            )


def problem_of(view: Any) -> str:
    """Why a stored on-demand view (protobuf) may not be run; or ''."""
    code = view.spec.feature_transformation
    if code.WhichOneof("transformation") != "user_defined_function" or not code.user_defined_function.body_text.strip():
        return f"it has no text, {NO_PICKLE}. {FIX}"
    if any(source.feature_view.spec.HasField("feature_transformation") for source in view.spec.sources.values()):
        return "a feature view that it reads holds code. Let it read plain feature views"
    text = code.user_defined_function.body_text
    if problem := _problem_of_text(text):
        return problem
    from feast.transformation.udf_rehydrate import rehydrate_udf_from_source

    if rehydrate_udf_from_source(text) is None:  # by now, nothing is called to define it
        return f"its text does not define a function, {NO_PICKLE}. {FIX}"
    return ""


def _problem_of_text(text: str) -> str:
    from feast.transformation.udf_rehydrate import _strip_leading_decorators

    try:
        body = ast.parse(dedent(text)).body
        run = ast.parse(_strip_leading_decorators(text)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return f"its text is no Python that Feast can run. {FIX}"
    if len(body) != 1 or not isinstance(body[0], ast.FunctionDef):
        return f"its text has {len(body)} statements, or another than a function. {FIX}"
    function = body[0]
    if len(function.decorator_list) > 1 or not all(map(_is_plain_call, function.decorator_list)):
        return f"its decorator is more than one plain call. {FIX}"
    function.decorator_list.clear()
    # Feast finds the decorator's end by counting brackets, and runs whatever it takes for the rest.
    if ast.dump(ast.Module(body, [])) != ast.dump(ast.Module(run, [])):
        return f"Feast would run other text than its function. {FIX}"
    return next(_calls(function), "")


def _is_plain_call(decorator: ast.expr) -> bool:
    """`name(...)` or `module.name(...)`."""
    if not isinstance(decorator, ast.Call):
        return False
    name = decorator.func
    while isinstance(name, ast.Attribute):
        name = name.value
    return isinstance(name, ast.Name)


def _calls(function: ast.FunctionDef) -> Iterator[str]:
    """What runs when a function is defined, and is more than a name or a literal."""
    arguments = function.args
    for default in [*arguments.defaults, *filter(None, arguments.kw_defaults)]:
        try:
            ast.literal_eval(default)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            yield "a default of its function is no literal, and runs when it is defined. Move it into the function"
    named: Collection[ast.arg | None] = [
        *arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg,
    ]  # fmt: skip
    for annotation in [function.returns, *(one.annotation for one in named if one)]:
        if annotation and not all(isinstance(node, ANNOTATION) for node in ast.walk(annotation)):
            yield "an annotation of its function is more than a type, and may run when it is defined. Leave it out"
