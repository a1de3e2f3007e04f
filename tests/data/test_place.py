import threading
import time
from pathlib import Path

from dnamamba.data.place import lock, places, writable_place


def test_two_places_fixed_by_the_name(tmp_path: Path, cache: Path) -> None:
    beside, cached = places(tmp_path / "x.fa", ".fai")
    assert beside == tmp_path / "x.fa.fai"
    assert cached.parent == cache / "dnamamba"
    assert cached.name.endswith("-x.fa.fai")
    assert cached != places(tmp_path / "other" / "x.fa", ".fai")[1]


def test_a_write_protected_folder_is_left_alone(tmp_path: Path, cache: Path) -> None:
    source = tmp_path / "genomes" / "x.fa"
    source.parent.mkdir()
    assert writable_place(source, ".fai") == source.with_name("x.fa.fai")
    source.parent.chmod(0o555)
    try:
        assert writable_place(source, ".fai").parent == cache / "dnamamba"
    finally:
        source.parent.chmod(0o755)
    assert list(source.parent.iterdir()) == []


def test_one_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            with lock(tmp_path / "thing"):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.001)
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 30
    assert list(tmp_path.iterdir()) == []
