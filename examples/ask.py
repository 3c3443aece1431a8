"""A client of the service that knows nothing of the model: its own example is asked about, explained, and spoilt.

    python -m examples.ask [--url http://localhost:3000] [--key KEY]

Needs a service that runs, such as `make serve`. It writes nothing, not even into the log of predictions.
"""

from __future__ import annotations

import argparse
from typing import Any

import requests

SHOWN = 5


def schema_of(http: requests.Session, url: str) -> dict[str, Any]:
    """What a request may hold, with an example: a service describes the model that it serves now."""
    described = http.get(f"{url}/openapi.json", timeout=10).json()
    return described["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "not known" if value is None else str(value)


def told(answer: dict[str, Any]) -> list[str]:
    """An answer as lines: what is forecast, by whom, and what moved it most."""
    said = answer.get("probability", answer.get("prediction"))
    model, why = answer["model"], answer["explanation"]
    lines = [
        f"{answer['predicts']}: {said:.3f} {answer.get('unit', '')}".rstrip(),
        f"by {model['name']} version {model['version']}, which reads {answer['feature_service']}",
    ]
    lines += [
        f"  {moved['contribution']:+.2f}  {moved['feature']} = {shown(moved['value'])}  ({moved['source']})"
        for moved in why["contributions"][:SHOWN]
    ]
    rest = sum(moved["contribution"] for moved in why["contributions"][SHOWN:])
    lines.append(f"  {rest:+.2f}  the other {len(why['contributions']) - SHOWN} inputs")
    lines.append(f"  {why['base']:+.2f}  a typical case; all together {why['output']:+.2f}, in {why['scale']}")
    return lines + [f"  warning: {warning}" for warning in answer["warnings"]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="examples.ask", description=__doc__.split("\n\n")[0])
    parser.add_argument("--url", default="http://localhost:3000", help="where the service listens")
    parser.add_argument("--key", default=None, help="an API key, for a service on another machine")
    options = parser.parse_args()
    with requests.Session() as http:
        http.headers.update({"Authorization": f"Bearer {options.key}"} if options.key else {})
        schema = schema_of(http, options.url)
        example, optional = schema["example"], set(schema["properties"]) - set(schema["required"]) - {"as_of"}

        print("The service's own example:")
        answer = http.post(f"{options.url}/explain", json=example, timeout=10)
        answer.raise_for_status()
        print(*told(answer.json()), sep="\n")

        print("\nWithout what is optional:")
        least = {name: value for name, value in example.items() if name not in optional}
        answer = http.post(f"{options.url}/explain", json=least, timeout=10)
        answer.raise_for_status()
        print(*told(answer.json()), sep="\n")

        print("\nWith nothing at all, it says what it wants:")
        refused = http.post(f"{options.url}/explain", json={}, timeout=10)
        print(refused.status_code, *(f"  {name}: {why}" for name, why in refused.json()["fields"].items()), sep="\n")


if __name__ == "__main__":
    main()
