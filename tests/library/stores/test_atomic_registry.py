"""Two processes that change one Feast registry: neither loses, unseen, what the other or it itself has changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from feast import Entity, ValueType
from feast.infra.registry.registry import Registry
from feast.repo_config import RegistryConfig

from fti.stores.atomic_registry import RegistryChanged

STORE = "fti.stores.atomic_registry.AtomicFileRegistryStore"
PROJECT = "made_up"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a registry that knows one entity."""
    open_registry(tmp_path).apply_entity(entity("known"), PROJECT)
    return tmp_path


def entity(name: str) -> Entity:
    return Entity(name=name, value_type=ValueType.STRING)


def open_registry(folder: Path) -> Registry:
    return Registry(PROJECT, RegistryConfig(path="registry.db", registry_store_type=STORE), folder)


def entities(registry: Registry) -> list[str]:
    return sorted(found.name for found in registry.list_entities(PROJECT))


def test_an_apply_that_a_rival_interrupts_is_refused_whole(folder):
    """Feast reads a new registry file at once, and would then commit what it changes after that without what it had."""
    mine, rival = open_registry(folder), open_registry(folder)
    mine.apply_entity(entity("first"), PROJECT, commit=False)
    rival.apply_entity(entity("theirs"), PROJECT)
    with pytest.raises(RegistryChanged, match="run this command again"):
        mine.apply_entity(entity("second"), PROJECT, commit=False)
    assert entities(open_registry(folder)) == ["known", "theirs"]


def test_who_was_refused_can_start_over(folder):
    """With what the rival wrote, in the same process."""
    mine, rival = open_registry(folder), open_registry(folder)
    mine.apply_entity(entity("first"), PROJECT, commit=False)
    rival.apply_entity(entity("theirs"), PROJECT)
    with pytest.raises(RegistryChanged):
        mine.commit()
    for name in ("first", "second"):
        mine.apply_entity(entity(name), PROJECT, commit=False)
    mine.commit()
    assert entities(open_registry(folder)) == ["first", "known", "second", "theirs"]


def test_changes_that_take_turns_are_all_kept(folder):
    """A rival's change between two of mine is no reason to refuse, as long as mine were written."""
    mine, rival = open_registry(folder), open_registry(folder)
    for number in range(3):
        mine.apply_entity(entity(f"mine_{number}"), PROJECT)
        mine.apply_entity(entity(f"mine_{number}"), PROJECT)  # says nothing new, so writes nothing
        rival.apply_entity(entity(f"theirs_{number}"), PROJECT)
    wanted = {f"{who}_{number}" for who in ("mine", "theirs") for number in range(3)}
    assert set(entities(mine)) == set(entities(open_registry(folder))) == wanted | {"known"}
