"""Paths of both kinds, copies of what lies in a bucket, and one line for each thing that can be wrong with one."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from lumina_jax import paths
from lumina_jax.cli import parse_arguments, parse_run, run_main
from lumina_jax.paths import (
    BucketError,
    as_path,
    check_writable,
    copy_folder,
    join,
    local_files,
    remove_folder,
    write_bytes,
)

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Options:
    """A command line with paths."""

    out: Path = Path("here.png")
    sheet: Path | None = None


def test_a_local_path_stays_as_it_is_written():
    assert as_path("a/b.png") == Path("a/b.png") and type(as_path("a")) is type(Path("a"))
    assert join("images", "a.png") == Path("images/a.png")
    assert join("images", "/data/a.png") == Path("/data/a.png")


def test_an_address_gets_back_the_slash_that_pathlib_took(fake_gcs):
    address = f"{fake_gcs.url}/a/b"
    assert str(as_path(Path(address))) == address == str(as_path(as_path(address)))
    assert str(join(f"{fake_gcs.url}/a", "b")) == address == str(join("images", address))


def test_command_lines_keep_addresses_whole(tmp_path: Path):
    given = ["--out", "gs://b/x.png", "--sheet", "gs://b/s/y.png"]
    options = parse_arguments(Options, given, prog="test")
    assert [str(options.out), str(options.sheet)] == ["gs://b/x.png", "gs://b/s/y.png"]
    assert parse_arguments(Options, [], prog="test") == Options()
    places = ["--workdir", "gs://b/run", "--init", "gs://b/model", "--data-dir", "gs://b/data"]
    run, _ = parse_run([str(ROOT / "configs" / "scenes_quick.py"), *places])
    assert [str(run.workdir), str(run.init), str(run.data_dir)] == places[1::2]


def test_files_of_a_bucket_are_copied_once_and_again_when_they_change(fake_gcs, monkeypatch):
    monkeypatch.setattr(paths, "PIECE_BYTES", 4)
    fake_gcs.put("data/1.rec", b"0123456789")
    fake_gcs.put("data/2.rec", b"")
    fake_gcs.put("data/other", b"x")
    folder = as_path(f"{fake_gcs.url}/data")
    for _ in range(2):
        assert [f.read_bytes() for f in local_files(folder, "*.rec")] == [b"0123456789", b""]
        assert fake_gcs.bytes_read == 10
    fake_gcs.put("data/1.rec", b"abcdefghij")
    assert local_files(folder, "*.rec")[0].read_bytes() == b"abcdefghij"


def test_a_folder_is_copied_without_what_is_there_and_its_mark_last(
    fake_gcs, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(paths, "NUM_COPIES", 1)
    for name in ("a", "mark", "own", "z/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    fake_gcs.put("to/a", b"a")
    objects = fake_gcs.storage.buckets[fake_gcs.bucket]
    before = objects["to/a"].generation
    copy_folder(tmp_path, as_path(f"{fake_gcs.url}/to"), last="mark", without="own")
    assert fake_gcs.names() == ["to/a", "to/mark", "to/z/b"]
    assert before == objects["to/a"].generation
    assert objects["to/mark"].generation > objects["to/z/b"].generation


def test_writing_and_removing(fake_gcs):
    folder = as_path(f"{fake_gcs.url}/a")
    write_bytes(folder / "b" / "c", b"old")
    write_bytes(folder / "b" / "c", b"new")
    assert (folder / "b" / "c").read_bytes() == b"new" == fake_gcs.get("a/b/c")
    remove_folder(folder)
    remove_folder(folder)
    assert fake_gcs.names() == [] and not folder.exists()


def test_what_is_wrong_with_a_bucket_is_one_line(fake_gcs):
    with pytest.raises(BucketError, match="gs://nobodys: no such bucket"):
        as_path("gs://nobodys/x")
    with pytest.raises(ValueError, match="names no bucket"):
        as_path("gs://")
    fake_gcs.storage.read_only.add(fake_gcs.bucket)
    with pytest.raises(BucketError, match="no permission to write there"):
        check_writable(as_path(f"{fake_gcs.url}/x"))
    fake_gcs.refuse(401, "Anonymous caller does not have storage.objects.list access")
    paths._check_bucket.cache_clear()
    with pytest.raises(BucketError, match=r"Anonymous caller .*gcloud auth") as refusal:
        as_path(f"{fake_gcs.url}/x")
    assert len(str(refusal.value).splitlines()) == 1


def test_an_error_of_the_bucket_ends_the_program_with_code_2(fake_gcs, capsys):
    file = as_path(f"{fake_gcs.url}/x") / "y"
    fake_gcs.put("x/y", b"1")
    fake_gcs.refuse(400, "Something\nis odd")
    with pytest.raises(SystemExit) as stop:
        run_main(file.read_bytes)
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and "Something is odd" in lines[0]


def test_without_gcsfs_one_line_names_the_requirements():
    code = (
        "import sys; sys.modules['gcsfs'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'gcsfs' else find(name, *rest)\n"
        "import sample; from lumina_jax.cli import run_main\n"
        "run_main(lambda: sample.main(['--prompt', 'a', '--out', 'gs://b/x.png']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    wanted = "error: gs:// paths want gcsfs: pip install -r requirements-gcs.txt\n"
    assert (done.returncode, done.stderr) == (2, wanted)


def test_absolute_names_stand_alone_beside_a_bucket(fake_gcs, tmp_path):
    """The same under every Python."""
    assert paths.join(fake_gcs.url, tmp_path / "a.png") == tmp_path / "a.png"
    assert str(paths.join(fake_gcs.url, "a.png")) == f"{fake_gcs.url}/a.png"


def test_copies_stop_at_the_first_failure():
    """Nothing that waits is begun after it."""
    begun = []

    def copy(item: int, tell) -> None:
        begun.append(item)
        time.sleep(0.02)
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        paths._in_threads(copy, range(200), [1] * 200, "copying")
    assert len(begun) < 100
