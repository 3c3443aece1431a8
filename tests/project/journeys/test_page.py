"""The web page in a real Chromium, on a real service: what somebody sees, types and hears, and what breaks meanwhile.

Whatever a test does, its page must not ask anybody but the service, break its own policy, or log an error; `browse`
looks at that. Pictures of what was seen are kept in data/screenshots, or where FTI_SCREENSHOTS says.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fti.serving.keys import main as make_key
from tests.conftest import copy_registry, emptied
from tests.project.journeys.test_serving import (
    AS_OF,
    MODEL,
    ROOT,
    Service,
    free_port,
    launch,
    move_champion,
    request_for,
    until,
)
from tests.project.journeys.test_serving import flights as flights  # noqa: PLC0414 - a fixture

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
SCREENSHOTS = Path(os.environ.get("FTI_SCREENSHOTS", ROOT / "data" / "screenshots"))
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True}
DESK = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"}  # nothing that is half way in a picture
ASKED = 8  # requests that are in the log when the page opens
PATIENCE = 30
MINUS = "\N{MINUS SIGN}"
HOSTILE = "<img src=x onerror=alert(1)>"


# ---- the service, and a browser -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> str:
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if found is None:
        pytest.skip(f"no {' or '.join(CHROMIUMS)} on PATH: `apt-get install chromium`, or set CHROMIUM to one")
    return found


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A file of keys, and the keys of a client and of who runs the service."""
    file, made = tmp_path_factory.mktemp("keys") / "keys", {}
    for name, flags in (("client", []), ("admin", ["--admin"])):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert make_key([name, str(file), *flags]) == 0
        made[name] = printed.getvalue().strip()
    return file, made


@pytest.fixture(scope="module")
def services(chromium, trained, keys, tmp_path_factory) -> Iterator[tuple[Service, Service]]:
    """One that answers this machine and one that wants a key, each with a registry of its own; started at once."""
    command = [str(Path(sys.executable).with_name("bentoml")), "serve", "serving.service:PredictionService"]
    settings = {
        "open": {"SERVING_MLFLOW_URL": "https://mlflow.example.org"},
        "keyed": {"SERVING_API_KEYS": str(keys[0])},
    }
    found = []
    try:
        for name, told in settings.items():
            root = tmp_path_factory.mktemp(name)
            copy_registry(trained, root)
            shutil.copytree(trained.repo, root / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copytree(trained.root / "data" / "feast", root / "data" / "feast")
            port, log = free_port(), root / "log"
            found.append(Service(launch(command, port, root, log, told), port, root, log, {}))
        for one in found:
            until(lambda one=one: one.send("GET", "/readyz").status == 200)
        yield found[0], found[1]
    finally:
        for one in found:
            one.process.terminate()
        for one in found:
            one.process.wait(60)


@pytest.fixture(scope="module")
def service(services) -> Service:
    """The one that wants no key."""
    return services[0]


@pytest.fixture(scope="module")
def asked(service, flights) -> list[dict[str, Any]]:
    """Requests that the service has answered before anybody opens the page, the last of them last."""
    requests: list[dict[str, Any]] = []
    for flight in flights.to_dict("records"):
        if service.predict(request_for(flight)).status == 200:
            requests.append(request_for(flight))
        if len(requests) == ASKED:
            break
    until(lambda: len(service.logged_rows("TRUE")) == ASKED)
    return requests


@pytest.fixture(scope="module")
def chrome(chromium) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    # Its event loop runs in this thread for as long as it is open: for this module, and not for those after it.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page, and what it did that it should not."""

    page: Any
    origin: str
    asked_others: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", self._requested)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("console", self._logged)

    def _requested(self, request: Any) -> None:
        if not request.url.startswith((f"{self.origin}/", "data:")):
            self.asked_others.append(request.url)

    def _logged(self, message: Any) -> None:
        # The browser itself logs each answer that is no success; what those mean to a person is what tests look at.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.said.append(message.text)

    def violations(self) -> list[str]:
        found: list[str] = self.page.evaluate("window.violations")
        return found

    def wait(self, script: str) -> None:
        """Wait until a script says so. Playwright's own way evaluates it in the page, whose policy forbids that."""
        deadline = time.monotonic() + PATIENCE
        while not self.page.evaluate(script):
            assert time.monotonic() < deadline, script
            self.page.wait_for_timeout(50)


@pytest.fixture
def browse(chrome, service, asked) -> Iterator[Callable[..., Watched]]:
    """Open the page of the service in a new window; at the end nobody else was asked and nothing was in error."""
    opened: list[Watched] = []

    def open_page(path: str = "/", service: Service = service, **options: Any) -> Watched:
        context = chrome.new_context(**(DESK | options))
        context.add_init_script(
            "window.violations = []; addEventListener('securitypolicyviolation', (event) => "
            "window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`));"
        )
        watched = Watched(context.new_page(), f"http://127.0.0.1:{service.port}")
        opened.append(watched)
        watched.page.goto(f"{watched.origin}{path}")
        return watched

    yield open_page
    found = [(one.asked_others, one.said, one.violations()) for one in opened]
    for one in opened:
        one.page.context.close()
    assert found == [([], [], [])] * len(found)


@pytest.fixture
def opened(browse) -> Watched:
    """The page, once it shows its first answer."""
    return answered(browse())


def answered(watched: Watched) -> Watched:
    watched.page.wait_for_selector("#answer .big")
    watched.wait("document.querySelector('#answer [role=status]').textContent !== ''")
    return watched


def predict(watched: Watched) -> Any:
    """Press the button; what the service says to it."""
    with watched.page.expect_response(lambda response: response.request.method == "POST") as waiting:
        watched.page.click("#form [type=submit]")
    watched.wait("!document.querySelector('#answer').hasAttribute('aria-busy')")
    return waiting.value


def keep(watched: Watched, name: str, whole: bool = False) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    watched.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=whole)


def violations_of_axe(watched: Watched) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(watched.page).response["violations"]
    return [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]


def pasted(watched: Watched) -> dict[str, Any]:
    """The request that the page says to paste into a terminal."""
    found: dict[str, Any] = json.loads(re.search(r"-d '(.*)'$", watched.page.text_content("#answer pre")).group(1))
    return found


def with_z(request: dict[str, Any]) -> dict[str, Any]:
    """As a browser writes moments."""
    return {name: value.replace("+00:00", "Z") if isinstance(value, str) else value for name, value in request.items()}


def percent(probability: float) -> str:
    return f"{round(probability * 100)} %"


# ---- what somebody sees ---------------------------------------------------------------------------------------------


def test_whoever_opens_it_sees_a_prediction_and_why(opened, service, asked):
    """Without a click: what the service says of one that was asked lately, what moved it most, and every feature."""
    page = opened.page
    shown = pasted(opened)
    assert {**shown, "as_of": AS_OF} in [{**one, "as_of": AS_OF} for one in (with_z(one) for one in asked)]
    said = service.send("POST", "/explain", json.dumps(shown)).json
    assert page.inner_text("#answer .big").split("\n")[0] == f"{percent(said['probability'])} likely: late"
    drivers = page.locator(".drivers tbody tr")
    assert drivers.count() == 11
    moved = [one["contribution"] for one in said["explanation"]["contributions"]]
    shown = [text.replace(MINUS, "-") for text in page.locator(".drivers td.amount").all_inner_texts()]
    assert [float(text) for text in shown] == pytest.approx([*moved[:10], sum(moved[10:])], abs=0.00501)
    sides = page.locator(".drivers .bars div").evaluate_all("bars => bars.map((bar) => bar.className)")
    assert sides == ["lower" if amount.startswith("-") else "raise" for amount in shown]
    values = page.locator(".features tbody tr th code").all_text_contents()
    assert sorted(values) == sorted(said["features"])
    row = page.locator(".features tr", has=page.locator("code", has_text=re.compile("^origin_departures_1h$")))
    assert "Flights that left the airport in the last 1h." in row.text_content()
    assert row.locator("td").text_content() == f"{said['features']['origin_departures_1h']['value']} flights"
    for text in (said["feature_service"], "version 2", "Request id"):
        assert text in page.inner_text("#answer footer")
    assert page.title() == "Arrival delay: predictions"
    assert page.inner_text("h1") == "How likely is this flight to arrive 15 or more minutes late?"
    first = said["explanation"]["contributions"][0]["feature"]
    assert service.send("GET", "/model").json["meanings"][first]["description"] in drivers.first.inner_text()
    keep(opened, "predict")


def test_looking_leaves_nothing_in_the_log(opened, service):
    """Opened and predicted again: the log of predictions, which monitors judge, has what clients asked and no more."""
    assert predict(opened).url.endswith("/explain")
    assert len(service.logged_rows("TRUE")) == ASKED


def test_the_form_is_what_the_contract_says(opened, service):
    """Every field of the request and no other, a list where the model knows all values, moments in UTC."""
    contract = service.send("GET", "/model").json["contract"]
    fields = {one["name"]: one for one in contract["interface"]["request_fields"]}
    page = opened.page
    names = page.locator("#form [name]").evaluate_all("all => all.map((one) => one.name)")
    assert names == [*fields, "as_of"]
    for name, known in contract["known_values"].items():
        options = page.locator(f"#form [name={name}] option").evaluate_all("all => all.map((one) => one.value)")
        assert options == ["", *known]
    for name, one in fields.items():
        input_ = page.locator(f"#form [name={name}]")
        assert input_.evaluate("one => one.required") is one["required"]
        assert one["description"] in page.locator(f"#form-{name}, .field:has([name={name}])").first.inner_text()
    shown = page.input_value("#form [name=scheduled_departure]")
    assert f"{shown}:00Z" == pasted(opened)["scheduled_departure"]
    assert page.get_attribute("#form [name=flight_number]", "type") == "number"


def test_one_is_found_by_anything_in_it_and_predicted_by_a_click(opened, service, asked):
    """Carrier, airport, number, time: what is typed narrows the list; a click fills the form and is answered."""
    page = opened.page
    assert page.locator("#picker-list li").count() == ASKED + 1  # those of the log, and the example
    wanted = asked[3]
    for typed in (
        f"{wanted['carrier'].lower()} {wanted['dest']}",
        str(wanted["flight_number"]),
        wanted["scheduled_departure"][11:16],
    ):
        page.fill("#picker-search", typed)
        texts = page.locator("#picker-list li").all_inner_texts()
        assert 1 <= len(texts) <= ASKED + 1
        assert any(str(wanted["flight_number"]) in text for text in texts)
    page.fill("#picker-search", "no such thing")
    assert page.locator("#picker-list li").count() == 0
    page.fill("#picker-search", f"{wanted['flight_number']} {wanted['dest']}")
    page.locator("#picker-list li").first.click()
    said = service.predict(wanted).json
    opened.wait(f"document.querySelector('#answer pre').textContent.includes('{wanted['flight_number']}')")
    assert page.inner_text("#answer .big strong") == percent(said["probability"])
    assert page.input_value("#form [name=dest]") == wanted["dest"]


def test_what_the_page_says_to_paste_is_answered_the_same(opened, service):
    """The request from a terminal is the one that was asked."""
    answer = service.predict(pasted(opened))
    assert percent(answer.json["probability"]) == opened.page.inner_text("#answer .big strong")
    assert f"{opened.origin}/predict" in opened.page.text_content("#answer pre")


# ---- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_problem_of_a_field_is_told_at_the_field(opened):
    """The service's own words, announced and at the field, which has the focus; put right, they go."""
    page = opened.page
    before = page.inner_text("#answer .big")
    page.select_option("#form [name=dest]", "")
    page.fill("#form [name=scheduled_departure]", "1969-01-01T00:00")
    assert predict(opened).status == 422
    assert page.inner_text("#field-dest-problem").startswith("missing; expected: Airport")
    assert "between the years 1970 and" in page.inner_text("#field-scheduled_departure-problem")
    assert page.get_attribute("#field-dest", "aria-invalid") == "true"
    assert page.evaluate("document.activeElement.id") == "field-dest"
    alert = page.locator(".problems[role=alert]")
    assert "Dest: missing" in alert.inner_text()
    assert page.inner_text("#answer .big") == before
    keep(opened, "problem")
    assert violations_of_axe(opened) == []
    page.select_option("#form [name=dest]", "BOS")
    page.fill("#form [name=scheduled_departure]", "2013-10-01T02:05")
    assert predict(opened).status == 200
    assert alert.inner_text() == ""
    assert page.locator("[aria-invalid]").count() == 0


def test_a_refusal_without_a_field_is_told_in_place_of_an_answer(opened, service):
    """A store that came back empty: the service's sentence, announced; nothing of an answer stays beside it."""
    with emptied(service.online_store):
        assert predict(opened).status == 503
    assert "it is empty" in opened.page.inner_text("#answer [role=alert]")
    assert opened.page.locator("#answer .big").count() == 0
    until(lambda: predict(opened).status == 200)


def test_a_moment_that_the_store_has_moved_past(opened, service, asked):
    """Typed, it is told at its field; of one that was asked before, it is moved on to the first that can be asked."""
    page = opened.page
    page.fill("#form [name=as_of]", "2013-09-01T00:00")
    assert predict(opened).status == 422
    assert "Ask for a later as_of" in page.inner_text("#field-as_of-problem")
    request = {name: value for name, value in with_z(asked[0]).items() if name != "as_of"}
    old = json.dumps([{"as_of": "2013-09-01T00:00:00Z", "request": request, "role": "champion"}])
    page.route(
        "**/requests", lambda route: route.fulfill(body=f'{{"requests": {old}}}', content_type="application/json")
    )
    page.reload()
    answered(opened)
    assert pasted(opened)["as_of"] == "2013-10-01T00:00:00Z"
    assert "the online store has moved on" in page.inner_text("#answer")


def test_what_is_too_old_or_missing_is_marked(opened, service):
    """Two hours on, what was good for one is not used; an aircraft that nobody knows has no row: each is said so."""
    page = opened.page
    page.fill("#form [name=as_of]", (AS_OF + timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M"))
    page.fill("#form [name=tailnum]", "N0NE")
    said = predict(opened).json()
    assert set(said["stale"]) >= {"origin_congestion"}
    assert set(said["missing"]) >= {"aircraft_profile"}
    shown = page.locator(".view:has(.chip.warn)").evaluate_all("all => all.map((one) => one.dataset.key)")
    assert set(shown) == {*said["stale"], *said["missing"]}
    assert page.locator(".view[open]").count() == len(shown)
    assert page.locator("#answer .notice.warn li").all_inner_texts() == said["warnings"]
    row = page.locator(".features tr", has=page.locator("code", has_text=re.compile("^origin_departures_1h$")))
    assert row.locator("td").inner_text() == "not known"
    keep(opened, "stale")
    assert violations_of_axe(opened) == []


def test_what_is_typed_stays_text(opened):
    """Markup in a value is shown as it was typed: no element comes of it, and no script runs."""
    opened.page.fill("#form [name=tailnum]", HOSTILE)
    assert predict(opened).status == 200
    assert HOSTILE in opened.page.text_content("#answer pre")
    assert opened.page.locator("main img").count() == 0


def test_the_browser_holds_the_page_to_its_policy(opened):
    """A script that found its way into it would not run, and it could reach nobody: both are violations."""
    opened.page.evaluate(
        "() => { const script = document.createElement('script'); script.textContent = 'window.ran = true';"
        " document.body.append(script); fetch('https://example.org/').catch(() => {}); }"
    )
    opened.wait("window.violations.length >= 2")
    found = sorted(one.split(" ")[0] for one in opened.violations())
    assert (found, opened.page.evaluate("window.ran")) == (["connect-src", "script-src-elem"], None)
    # What was provoked is no finding.
    opened.page.evaluate("window.violations = []")
    opened.said.clear()
    opened.asked_others.clear()


def test_a_service_that_is_away_is_told_and_found_again(opened):
    """A notice while nobody answers; it goes by itself."""
    notice = opened.page.locator("#notices [data-key=away]")
    opened.page.context.set_offline(True)
    notice.wait_for(timeout=20_000)
    assert "does not answer" in notice.inner_text()
    opened.page.click("#form [type=submit]")
    opened.page.locator("#answer [role=alert]").wait_for()
    opened.page.context.set_offline(False)
    notice.wait_for(state="detached", timeout=20_000)
    assert predict(opened).status == 200


def test_the_version_changes_while_the_page_is_open(opened, service):
    """The form becomes the new version's, keeps what was typed, and asks it; and back."""
    page, registry = opened.page, service.registry
    page.select_option("#form [name=carrier]", "UA")
    page.fill("#form [name=as_of]", "2013-10-01T00:30")
    try:
        move_champion(registry, "1")
        notice = page.locator("#notices [data-key=swap]")
        notice.wait_for(timeout=30_000)
        assert "Version 1 took over from version 2" in notice.inner_text()
        assert page.inner_text("#serving").startswith("version 1")
        assert page.locator("#form [name=tailnum]").count() == 0
        assert page.input_value("#form [name=carrier]") == "UA"
        assert page.input_value("#form [name=as_of]") == "2013-10-01T00:30"
        assert page.inner_text("#answer-title") == "The answer of version 2"
        keep(opened, "swap")
        assert violations_of_axe(opened) == []
        said = predict(opened).json()
        assert (said["model"]["version"], said["features"]["carrier"]["value"]) == ("1", "UA")
        assert "version 1" in page.inner_text("#answer footer")
    finally:
        move_champion(registry, "2")
    page.wait_for_selector("#form [name=tailnum]", timeout=30_000)
    assert page.input_value("#form [name=carrier]") == "UA"


def whose(watched: Watched) -> tuple[str, bool]:
    """What is written over the answer, and whether it looks like one that is over."""
    past: bool = watched.page.evaluate("document.querySelector('#answer').classList.contains('past')")
    return watched.page.inner_text("#answer-title"), past


def test_an_answer_is_named_after_the_version_that_gave_it(opened, service):
    """One that was under way when another took over, one that comes back, and one of a version that is news here."""
    page, registry = opened.page, service.registry
    held: list[Any] = []
    page.route("**/explain", lambda route: held.append((route, route.fetch())))
    page.click("#form [type=submit]")
    until(lambda: page.wait_for_timeout(50) or held)
    try:
        move_champion(registry, "1")
        opened.wait("document.querySelector('#serving').textContent.startsWith('version 1')")
        (route, response) = held.pop()
        route.fulfill(response=response)
        opened.wait("!document.querySelector('#answer').hasAttribute('aria-busy')")
        assert whose(opened) == ("The answer of version 2", True)
        page.unroute("**/explain")

        move_champion(registry, "2")
        opened.wait("document.querySelector('#serving').textContent.startsWith('version 2')")
        assert whose(opened) == ("The answer", False)

        account = service.send("GET", "/model").json
        page.route("**/model", lambda route: route.fulfill(json=account))  # as a worker that has not moved yet
        service.champion("1")
        assert predict(opened).json()["model"]["version"] == "1"
        assert whose(opened) == ("The answer of version 1", True)
        page.unroute("**/model")
        opened.wait("document.querySelector('#serving').textContent.startsWith('version 1')")
        assert whose(opened) == ("The answer", False)
    finally:
        service.champion("2")


def test_a_first_load_with_a_hiccup_is_made_whole(opened):
    """What failed once is asked for again: the list of real ones comes, and the first answer."""
    page = opened.page
    page.route("**/requests", lambda route: route.fulfill(status=500, json={"error": "A hiccup."}), times=1)
    page.reload()
    page.wait_for_selector("#form [type=submit]")
    page.wait_for_selector("#notices [data-key=away]")
    answered(opened)
    assert page.locator("#picker").is_visible()
    page.wait_for_selector("#notices [data-key=away]", state="detached")


def test_a_second_look_while_the_form_is_built_tells_of_no_swap(opened):
    """Back from another tab at once: one form is built, and no version has taken over from itself."""
    page, held = opened.page, []

    def hold(route: Any) -> None:
        held.append(route)

    page.route("**/openapi.json", hold)
    page.reload()
    until(lambda: page.wait_for_timeout(50) or held)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_timeout(300)
    for route in held:
        route.continue_()
    answered(opened)
    page.wait_for_timeout(300)
    assert len(held) == 1
    assert page.locator("#notices [data-key=swap]").count() == 0


def test_where_no_row_is_known_the_last_request_comes_first(opened, asked):
    """A log that is off says of no view how new it is: then the form holds what was asked last, not first."""
    page = opened.page
    moments = ("2013-10-01T00:45:00Z", "2013-10-01T00:15:00Z")
    known = [
        {"as_of": as_of, "request": {k: v for k, v in with_z(one).items() if k != "as_of"}, "role": "champion"}
        for as_of, one in zip(moments, asked, strict=False)
    ]
    page.route("**/requests", lambda route: route.fulfill(json={"requests": known}))
    page.route("**/status", lambda route: route.fulfill(json={"views": None}))
    page.reload()
    answered(opened)
    assert pasted(opened)["as_of"] == moments[0]


# ---- for whom it is -------------------------------------------------------------------------------------------------


def test_it_works_by_keyboard_alone(browse, service, asked):
    """From the top: skip, pick one with the arrows, go through the fields, predict; what has the focus can be seen."""
    opened = answered(browse())
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "picker-search"
    before = page.text_content("#answer pre")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    active = page.get_attribute("#picker-search", "aria-activedescendant")
    assert page.locator(f"#{active}").evaluate("one => [...one.parentElement.children].indexOf(one)") == 1
    page.keyboard.press("Enter")
    opened.wait(f"document.querySelector('#answer pre').textContent !== {json.dumps(before)}")
    names = []
    while (name := page.evaluate("document.activeElement.name || document.activeElement.type")) != "submit":
        page.keyboard.press("Tab")
        # Of a moment's last part, its calendar, the browser itself draws the outline.
        outlined = "getComputedStyle(document.activeElement).outlineStyle != 'none'"
        assert page.evaluate(f"document.activeElement.type == 'datetime-local' || {outlined}")
        assert page.evaluate("document.activeElement.getBoundingClientRect().bottom <= innerHeight + 1")
        names.append(name)
        assert len(names) < 60, names
    seen = list(dict.fromkeys(name for name in names if name != "search"))
    assert seen == page.locator("#form [name]").evaluate_all("all => all.map((one) => one.name)")
    with page.expect_response("**/explain") as waiting:
        page.keyboard.press("Enter")
    said = waiting.value.json()
    opened.wait("!document.querySelector('#answer').hasAttribute('aria-busy')")
    opened.wait("document.querySelector('#answer [role=status]').textContent !== ''")
    assert page.inner_text("#answer [role=status]").startswith(f"{percent(said['probability'])} likely: late.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", ["desk", "phone"])
def test_axe_finds_nothing_to_object_to(browse, watched_results, scheme, device):
    """Labels, landmarks, headings, roles and contrast, in both views, with everything open that can be."""
    opened = answered(browse(color_scheme=scheme, **(PHONE if device == "phone" else DESK)))
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert violations_of_axe(opened) == []
    keep(opened, f"predict-{scheme}-{device}", whole=True)
    page.click("nav a[href='#status']")
    page.wait_for_selector("#status figure")
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert violations_of_axe(opened) == []
    keep(opened, f"status-{scheme}-{device}", whole=True)


def test_axe_would_object(opened):
    """It sees a field without a label and text that is too pale, so that finding nothing says something."""
    opened.page.evaluate(
        "() => { const input = document.createElement('input'); document.querySelector('main').append(input);"
        " document.querySelector('h1').style.color = '#ddd'; }"
    )
    assert {one.split(":")[0] for one in violations_of_axe(opened)} >= {"label", "color-contrast"}


def test_a_phone_never_scrolls_sideways(browse, watched_results):
    """360 pixels wide, everything open: nothing reaches over the edge, in either view."""
    opened = answered(browse(**PHONE))
    for view in ("predict", "status"):
        opened.page.click(f"nav a[href='#{view}']")
        opened.page.wait_for_selector("#status figure, #answer .big >> visible=true")
        opened.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert opened.page.evaluate("document.documentElement.scrollWidth") == 360
        over = opened.page.evaluate(
            "[...document.querySelectorAll('main *')].filter((one) => one.checkVisibility()"
            " && !one.closest('pre, .scroll, .hidden')"
            " && one.getBoundingClientRect().right > 360.5).map((one) => one.outerHTML.slice(0, 80))"
        )
        assert over == []


def test_the_dark_is_dark_and_calm_is_calm(browse):
    """The system's wishes are kept: a dark ground with light text, and nothing that moves."""
    light, dark = (
        answered(browse(reduced_motion="no-preference")),
        answered(browse(color_scheme="dark")),
    )
    shades = {}
    for name, watched in (("light", light), ("dark", dark)):
        ground, ink = watched.page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
        shades[name] = [sum(map(int, re.findall(r"\d+", one))) / 765 for one in (ground, ink)]
    assert shades["light"][0] > 0.9
    assert shades["light"][1] < 0.2
    assert shades["dark"][0] < 0.2
    assert shades["dark"][1] > 0.85
    moving = "getComputedStyle(document.querySelector('.answer')).transitionDuration"
    assert (light.page.evaluate(moving), dark.page.evaluate(moving)) == ("0.2s", "0s")


# ---- how it goes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched_results(service) -> list[Any]:
    """Five days of a monitor's results in the service's database; the last is in breach."""
    from fti.contract.predictions import create, open_log
    from fti.contract.results import Result, save

    engine = open_log(f"sqlite:///{service.root / 'predictions.db'}")
    create(engine)
    days = [AS_OF + timedelta(days=day) for day in range(5)]
    subject = f"{MODEL} version 2, champion"
    for place, day in enumerate(days):
        value = 0.77 - 0.03 * place
        auc = Result(
            "quality",
            day - timedelta(days=7),
            day,
            subject,
            "roc_auc",
            value,
            900,
            "breach" if place == 4 else "healthy",
            value - 0.02,
            value + 0.02,
            f"of day {place}",
        )
        save(engine, day, [auc])
    engine.dispose()
    return days


def test_the_status_is_what_the_service_says(browse, service, watched_results):
    """Versions, the age of each view, requests, monitors with their course in words and in a table, links elsewhere."""
    opened = browse("/#status")
    page = opened.page
    page.wait_for_selector("#status figure")
    said = service.send("GET", "/status").json
    tiles = page.locator(".status-versions .tile").all_inner_texts()
    assert ["version 2" in tiles[0], "version 1" in tiles[1], "none" in tiles[2]] == [True] * 3
    assert "serves now" in tiles[0]
    assert page.locator(".status-views tbody tr").count() == len(said["views"])
    states = page.locator(".status-views tbody .chip").all_inner_texts()
    assert states == [view["state"] for view in said["views"]]
    assert page.locator(".status-traffic .figures dd").first.inner_text() == str(said["traffic"]["requests"])
    chart = page.locator(".status-monitor-quality svg").first
    described = chart.get_attribute("aria-label")
    assert "5 values from 2013-10-01 00:00 to 2013-10-05 00:00 UTC: first 0.77, last 0.65" in described
    page.locator(".status-monitor-quality summary").first.click()
    cells = page.locator(".status-monitor-quality tbody tr").first.locator("th, td").all_inner_texts()
    assert cells == ["2013-10-01 00:00", "0.77", "0.75", "0.79"]
    assert "breach" in page.inner_text(".status-monitor-quality")
    assert page.get_attribute(".status-links a", "href").rstrip("/") == "https://mlflow.example.org"
    keep(opened, "status", whole=True)


def test_the_status_renews_itself_and_leaves_the_reader_alone(browse, service, watched_results, asked):
    """What happens meanwhile comes in by itself; what was opened stays open, and what is being read where it was."""
    opened = browse("/#status")
    page = opened.page
    page.wait_for_selector("#status figure")
    summary = page.locator(".status-monitor-quality summary").first
    summary.focus()
    page.keyboard.press("Enter")
    shown = page.locator(".status-traffic .figures dd").first
    before = int(shown.inner_text())
    service.predict(asked[0])
    opened.wait(f"document.querySelector('.status-traffic .figures dd').textContent === '{before + 1}'")
    assert page.locator(".status-monitor-quality details[open]").count() == 1
    assert summary.evaluate("one => one === document.activeElement")
    page.locator(".status-traffic summary").click()
    region = page.locator(".status-traffic .scroll")
    region.focus()
    region.evaluate("one => { one.scrollTop = 60; }")
    service.predict(asked[0])  # this very region's values change
    opened.wait(f"document.querySelector('.status-traffic .figures dd').textContent === '{before + 2}'")
    assert region.evaluate("one => [one === document.activeElement, one.scrollTop]") == [True, 60]


# ---- with keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["client", "admin"])
def test_the_browser_asks_for_a_key_and_the_key_says_what_is_seen(browse, services, keys, whose):
    """As a password: a client predicts, and is told what key the status needs; who runs the service sees all."""
    credentials = {"username": "me", "password": keys[1][whose]}
    opened = answered(browse(service=services[1], http_credentials=credentials))
    page = opened.page
    assert predict(opened).status == 200
    assert page.locator("#picker").is_visible() is (whose == "admin")
    page.click("nav a[href='#status']")
    page.wait_for_selector("#status > *")
    told = page.inner_text("#status")
    assert ("made with --admin" in told) is (whose == "client")
    assert ("serves now" in told) is (whose == "admin")


def test_without_a_key_nothing_of_the_page_is_shown(chrome, services):
    """The browser takes the answer for the question that it is; here it has nobody to ask."""
    from playwright.sync_api import Error

    context = chrome.new_context()
    page = context.new_page()
    for path in ("/", "/page/app.js"):
        with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
            page.goto(f"http://127.0.0.1:{services[1].port}{path}")
    context.close()


def test_nothing_of_bentoml_itself_is_told_without_a_key(services):
    """It has a description of its own, of the class that serves: here it is a path like another that is not there."""
    opened, keyed = (one.send("GET", "/schema.json") for one in services)
    assert (opened.status, opened.json["error"].startswith("There is nothing at /schema.json")) == (404, True)
    assert keyed.status == 401
    assert [one.send("GET", "/readyz").status for one in services] == [200, 200]


# ---- another model --------------------------------------------------------------------------------------------------


def another_contract() -> Any:
    """Of another problem: every type of field, required or not, and more known values than a list is good for."""
    from fti.contract.feature_contract import FeatureContract

    dtypes = {
        "shop": "string",
        "basket": "int64",
        "weight": "double",
        "gift": "bool",
        "member": "bool",
        "due": "unix_timestamp",
        "note": "string",
    }
    fields = [
        {"name": name, "dtype": dtype, "required": name not in ("member", "note"), "description": f"What {name} is."}
        for name, dtype in dtypes.items()
    ]
    key = {"name": "shop_id", "dtype": "string", "request_field": "shop", "unknown": "reject", "noun": "branch"}
    counted = {"name": "basket", "dtype": "int64", "request_field": "basket", "unknown": "reject", "noun": "basket"}
    return FeatureContract.model_validate({
        "interface": {
            "feature_service": "returns_v1", "inputs": [{"name": "weight", "dtype": "double", "source": "parcel"}],
            "join_keys": [key, counted], "request_fields": fields, "stored_views": [],
            "on_demand_views": [],
            "spine_view": "orders", "label_view": "returns", "label": "was_returned",
            "label_definition": "returned_items > 0",
            "prediction_anchor": "due", "prediction_lead_minutes": 60,
        },
        "known_values": {"shop_id": [f"S{number:03}" for number in range(400)], "basket": [3, 2**53 + 1]},
        "training_set": {"as_of": AS_OF, "start": AS_OF, "end": AS_OF, "rows": 1, "sha256": "0", "delta_versions": {}},
        "example_request": {"shop": "S001", "basket": 3, "weight": 1.5, "gift": True, "due": "2024-02-29T12:30:00Z"},
    })  # fmt: skip


def test_another_model_has_another_form_by_itself(chrome, service):
    """The service's own description of another contract: an input for each type, and a request it takes as typed."""
    from fti.scoring.schemas import parse, request_schema
    from fti.serving.http.openapi import document

    contract = another_contract()
    schema = request_schema(contract, unused=["departure_hour"])
    described = document(SimpleNamespace(contract=contract, schema=schema, name="parcel-returns", version="7"))
    account = {
        "name": "parcel-returns",
        "version": "7",
        "following": "version 7",
        "contract": contract.model_dump(mode="json"),
    }
    sent: list[bytes] = []
    moved = {"weight": 2.25, "shop": -0.5}
    said = {
        "prediction": 12.75, "unit": "minutes", "predicts": "", "model": {"name": "parcel-returns", "version": "7"},
        "feature_service": "returns_v1", "as_of": "2024-02-29T11:00:00Z", "missing": [], "stale": [], "warnings": [],
        "features": {"weight": {"value": 0.1, "source": "parcel"}},
        "explanation": {
            "method": "by hand", "scale": "label", "base": 11, "output": 12.75, "base_probability": None,
            "contributions": [
                {"feature": name, "value": 1, "source": "parcel", "contribution": by} for name, by in moved.items()
            ],
        },
    }  # fmt: skip

    def answer(route: Any) -> None:
        sent.append(route.request.post_data_buffer)
        route.fulfill(json=said)

    context = chrome.new_context(**DESK)
    page = context.new_page()
    page.route("**/openapi.json", lambda route: route.fulfill(json=described))
    page.route("**/model", lambda route: route.fulfill(json=account))
    page.route("**/explain", answer)
    for path in ("requests", "status"):
        page.route(f"**/{path}", lambda route: route.fulfill(status=403, json={"error": "for admins"}))
    page.goto(f"http://127.0.0.1:{service.port}/")
    page.wait_for_selector("#form [type=submit]")
    kinds = page.locator("#form [name]").evaluate_all("all => all.map((one) => [one.name, one.type])")
    assert dict(kinds) == {
        "shop": "text", "basket": "number", "weight": "number", "gift": "checkbox", "member": "select-one",
        "due": "datetime-local", "note": "text", "as_of": "datetime-local",
    }  # fmt: skip
    assert page.inner_text("h1") == "How likely is “returned”?"
    assert page.inner_text("#meaning") == "“Returned” means returned items > 0, told 1 h before due."
    assert page.locator("#field-shop-list option").count() == 400
    assert page.input_value("[name=due]") == "2024-02-29T12:30"
    page.fill("[name=shop]", "S399")
    page.fill("[name=basket]", str(2**53 + 1))
    page.fill("[name=weight]", "0.1")
    page.uncheck("[name=gift]")
    page.select_option("[name=member]", "true")
    page.fill("[name=note]", 'say "hello", 100 %')
    page.fill("[name=as_of]", "2024-02-29T11:00")
    with page.expect_response("**/explain"):
        page.click("#form [type=submit]")
    request, _ = parse(schema, contract, sent[-1])
    assert request == {
        "shop": "S399", "basket": 2**53 + 1, "weight": 0.1, "gift": False, "member": True, "note": 'say "hello", 100 %',
        "due": datetime(2024, 2, 29, 12, 30, tzinfo=UTC), "as_of": datetime(2024, 2, 29, 11, tzinfo=UTC),
    }  # fmt: skip
    # The answer of a model of a quantity: in its unit, without a bar from never to always.
    assert page.inner_text("#answer .big").startswith("12.8 minutes")
    assert page.locator(".meter").count() == 0
    assert "A typical case stands at 11 minutes." in page.inner_text("#answer")
    assert page.locator(".drivers td.amount").all_inner_texts() == ["+2.25", f"{MINUS}0.5"]
    context.close()


def test_the_description_of_the_api_works_under_a_policy_too(browse, service):
    """Swagger's page lists every path, and asks nobody else."""
    opened = browse("/docs")
    opened.page.wait_for_selector(".opblock")
    shown = opened.page.locator(".opblock-summary-path").evaluate_all("all => all.map((one) => one.dataset.path)")
    assert set(shown) == set(service.send("GET", "/openapi.json").json["paths"])
