"""The budget of the adapters' folder, what crashes leave there, and what ships with the project."""

import fcntl
import io
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.utils import timezone
from pytest_django import Settings

from loras.cache import cache_prune, cache_repair
from loras.files import content_path, content_place, incoming_folder, incoming_path
from loras.models import Lora
from loras.processing import lora_process
from loras.selectors import lora_get
from loras.services import lora_delete
from loras.shipped import loras_register_builtin
from models_registry import builtin
from tests.support.factories import LoraMaker, client_of, upload
from tests.support.lora_files import lora_bytes

SIZE = len(lora_bytes())


@pytest.fixture
def three(make_hub_lora: LoraMaker, settings: Settings) -> list[Lora]:
    """Three adapters of the Hub, used three, two and one hours ago; there is room for two."""
    now = timezone.now()
    made = [
        make_hub_lora(name, content=hours, last_used_at=now - timedelta(hours=hours))
        for name, hours in (("old", 3), ("middle", 2), ("new", 1))
    ]
    settings.LORA_CACHE_MAX_BYTES = int(SIZE * 2.5)
    return made


def on_disk(loras: list[Lora]) -> list[str]:
    """Those whose file lies there."""
    return [lora.name for lora in loras if content_path(lora.sha256).is_file()]


def states(loras: list[Lora]) -> list[str]:
    """As the rows say now."""
    return [Lora.objects.get(pk=lora.pk).state for lora in loras]


def test_the_least_recently_used_goes_first(three: list[Lora]) -> None:
    """As many as must; a pruned one is absent, and keeps what is known of it."""
    assert [pruned.names for pruned in cache_prune()] == [("old",)]
    assert on_disk(three) == ["middle", "new"]
    assert states(three) == ["absent", "present", "present"]
    assert cache_prune() == []


def test_use_saves_an_adapter(three: list[Lora]) -> None:
    """The order is that of use, not of making; what was never used counts from its making."""
    Lora.objects.filter(name="old").update(last_used_at=None)
    assert [pruned.names for pruned in cache_prune()] == [("middle",)]


def test_what_work_needs_stays(three: list[Lora], pins: set[Any]) -> None:
    """Also when the budget is passed for it."""
    pins.update(lora.id for lora in three[:2])
    assert [pruned.names for pruned in cache_prune()] == [("new",)]
    pins.add(three[2].id)
    assert cache_prune() == []


def test_uploads_stay(three: list[Lora]) -> None:
    """They could not be had again."""
    Lora.objects.filter(name="old").update(source="upload", repository="")
    assert [pruned.names for pruned in cache_prune()] == [("middle",)]


def test_a_file_that_two_have_counts_the_later_use(
    three: list[Lora], make_hub_lora: LoraMaker, stranger: User, settings: Settings
) -> None:
    """And goes for both."""
    room, settings.LORA_CACHE_MAX_BYTES = settings.LORA_CACHE_MAX_BYTES, SIZE * 10
    make_hub_lora("twin", content=3, owner=stranger, last_used_at=timezone.now())
    settings.LORA_CACHE_MAX_BYTES = room
    assert [pruned.names for pruned in cache_prune()] == [("middle",)]
    settings.LORA_CACHE_MAX_BYTES = 1
    assert [pruned.names for pruned in cache_prune()] == [("new",), ("old", "twin")]


def test_a_pin_of_either_holds_a_file_that_two_have(
    three: list[Lora], make_hub_lora: LoraMaker, stranger: User, settings: Settings, pins: set[Any]
) -> None:
    """The other one stays present with it."""
    settings.LORA_CACHE_MAX_BYTES = SIZE * 10
    pins.add(make_hub_lora("twin", content=3, owner=stranger).id)
    settings.LORA_CACHE_MAX_BYTES = 1
    assert [pruned.names for pruned in cache_prune()] == [("middle",), ("new",)]
    assert states(three) == ["present", "absent", "absent"]


def test_nobodys_files_go_first_and_always(three: list[Lora], settings: Settings) -> None:
    """As when their owner was deleted with everything of theirs."""
    settings.LORA_CACHE_MAX_BYTES = SIZE * 10
    Lora.objects.filter(name="new").delete()
    assert [(pruned.names, pruned.path) for pruned in cache_prune()] == [((), content_path(three[2].sha256))]
    assert on_disk(three) == ["old", "middle"]


def test_a_dry_run_only_says(three: list[Lora]) -> None:
    """The same, and changes nothing."""
    output = io.StringIO()
    call_command("prune_cache", dry_run=True, stdout=output)
    assert "old" in output.getvalue()
    assert "1 files would be removed" in output.getvalue()
    assert on_disk(three) == ["old", "middle", "new"]
    assert states(three) == ["present"] * 3
    output = io.StringIO()
    call_command("prune_cache", stdout=output)
    assert "1 files removed" in output.getvalue()
    assert on_disk(three) == ["middle", "new"]


def test_every_new_file_keeps_the_budget(three: list[Lora], make_hub_lora: LoraMaker) -> None:
    """Without a command."""
    make_hub_lora("fourth", content=9)
    assert on_disk(three) == ["new"]


def test_a_pruned_file_can_be_deleted_and_had_again(three: list[Lora], owner: User) -> None:
    """Its row is like any other."""
    cache_prune()
    lora_delete(user=owner, lora=Lora.objects.get(name="old"))
    assert not Lora.objects.filter(name="old").exists()


def test_leftovers_go_at_the_start(db: None, make_lora: LoraMaker) -> None:
    """Partial files that nobody writes; what waits to be checked stays, and what is being written."""
    leftover = incoming_folder() / "0193.part"
    leftover.write_bytes(b"half")
    half_download = incoming_folder() / "0194" / "abc.safetensors.part"
    half_download.parent.mkdir()
    half_download.write_bytes(b"half")
    written = incoming_folder() / "0195.part"
    waiting = make_lora(state="checking")
    incoming_path(waiting.id).write_bytes(b"whole")
    with written.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        cache_repair()
        assert sorted(path.name for path in incoming_folder().iterdir()) == sorted(
            [written.name, incoming_path(waiting.id).name]
        )
    cache_repair()
    assert not written.exists()


def test_rows_without_their_file_say_so(
    make_lora: LoraMaker, make_hub_lora: LoraMaker, tmp_path: Path
) -> None:
    """One from the Hub is absent, an upload is broken, until its file is back."""
    lost, gone, kept = make_hub_lora("lost"), make_lora("gone", content=1), make_lora("kept", content=2)
    content_path(lost.sha256).unlink()
    content_path(gone.sha256).rename(aside := tmp_path / "aside")
    cache_repair()
    assert states([lost, gone, kept]) == ["absent", "broken", "present"]
    aside.rename(content_path(gone.sha256))
    assert cache_prune() == []
    cache_repair()
    assert states([lost, gone, kept]) == ["absent", "present", "present"]


def test_another_file_of_that_name_is_not_taken_for_the_lost_one(make_lora: LoraMaker) -> None:
    """A half copied backup, for instance."""
    gone, _ = make_lora("gone", content=1), make_lora("kept", content=2)
    content_path(gone.sha256).unlink()
    cache_repair()
    content_path(gone.sha256).write_bytes(b"half")
    cache_repair()
    assert states([gone]) == ["broken"]


def test_a_folder_that_is_away_changes_no_row(
    make_lora: LoraMaker, make_hub_lora: LoraMaker, lora_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not mounted yet, or not restored yet: it comes back."""
    both = [make_hub_lora("one"), make_lora("other", content=1)]
    lora_folder.rename(aside := lora_folder.with_name("aside"))
    cache_repair()
    assert states(both) == ["present", "present"]
    assert "folder of LoRA away" in caplog.text
    shutil.rmtree(lora_folder)
    aside.rename(lora_folder)
    assert cache_prune() == []
    assert on_disk(both) == ["one", "other"]


def test_a_crash_before_the_commit_loses_no_upload(
    owner: User, monkeypatch: pytest.MonkeyPatch, lora_folder: Path
) -> None:
    """The unchecked file stays until the row knows the checked one."""
    upload(client_of(owner), lora_bytes())
    lora = Lora.objects.get(source="upload")

    def crash(*args: Any) -> None:
        raise SystemExit

    monkeypatch.setattr("loras.processing.content_place", lambda *args: (content_place(*args), crash()))
    with pytest.raises(SystemExit):
        lora_process(lora_id=lora.id)
    monkeypatch.undo()
    lora.refresh_from_db()
    assert lora.state == "checking"
    lora_process(lora_id=lora.id)
    lora.refresh_from_db()
    assert lora.state == "present"
    assert [path.name for path in lora_folder.rglob("*") if path.is_file()] == [f"{lora.sha256}.safetensors"]


@pytest.fixture
def shipped(db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what ships, with two adapters; whatever is registered really is forgotten."""
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    for seed, name in enumerate(("outline", "pastel")):
        (adapters / f"{name}.safetensors").write_bytes(lora_bytes("builtin", "diffusers", rank=6, seed=seed))
    monkeypatch.setattr(builtin, "ADAPTERS", adapters)
    Lora.objects.filter(source="builtin").delete()
    return adapters


def test_what_ships_is_registered_for_everybody(shipped: Path, owner: User) -> None:
    """Once, in place, for the built-in model."""
    loras_register_builtin()
    again = loras_register_builtin()
    assert [lora.name for lora in again] == ["outline", "pastel"]
    outline = lora_get(user=owner, name="outline")
    assert (outline.family, outline.rank, outline.shared, outline.owner) == ("builtin", 6, True, None)
    assert Lora.objects.filter(source="builtin").count() == 2
    answer = client_of(owner).get("/api/v1/loras").json()["results"]
    assert {lora["name"] for lora in answer} == {"outline", "pastel"}
    assert client_of(User.objects.create_superuser("eve")).delete(answer[0]["url"]).status_code == 403


def test_what_ships_is_neither_pruned_nor_taken_for_lost(shipped: Path, settings: Settings) -> None:
    """Its files lie elsewhere."""
    settings.LORA_CACHE_MAX_BYTES = 1
    loras_register_builtin()
    assert cache_prune() == []
    cache_repair()
    assert set(Lora.objects.filter(source="builtin").values_list("state", flat=True)) == {"present"}


def test_a_new_version_of_what_ships_is_noticed(shipped: Path, owner: User) -> None:
    """What an operator disabled stays so; what is no longer there goes."""
    first = {lora.name: lora for lora in loras_register_builtin()}
    Lora.objects.filter(name="outline").update(enabled=False)
    (shipped / "outline.safetensors").write_bytes(lora_bytes("builtin", "diffusers", rank=8, seed=9))
    (shipped / "pastel.safetensors").unlink()
    (outline,) = loras_register_builtin()
    assert (outline.pk, outline.rank, outline.enabled) == (first["outline"].pk, 8, False)
    assert outline.sha256 != first["outline"].sha256
    assert not Lora.objects.filter(name="pastel").exists()


def test_a_taken_name_does_not_stop_what_ships(shipped: Path, make_lora: LoraMaker) -> None:
    """It gets another one."""
    make_lora("outline", shared=True)
    assert [lora.name for lora in loras_register_builtin()] == ["builtin-outline", "pastel"]


def test_without_files_nothing_ships(shipped: Path) -> None:
    """The folder may be missing altogether."""
    shutil.rmtree(shipped)
    assert loras_register_builtin() == []
