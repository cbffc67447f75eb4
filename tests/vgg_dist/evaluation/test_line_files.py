"""Text files of all editors and systems, read line by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from vgg_dist.evaluation.line_files import ClassNumbers, read_lines

LINES = ["tench", "golden retriever", "caf\u00e9", "\u732b", "a\u2028b"]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize("last", ["", "end", "two ends"])
def test_the_lines_are_those_that_were_written(tmp_path: Path, encoding: str, ends: str, last: str) -> None:
    text = ends.join(LINES) + {"": "", "end": ends, "two ends": ends + "  " + ends}[last]
    (tmp_path / "names.txt").write_bytes(text.encode(encoding))
    assert read_lines("--class-names", str(tmp_path / "names.txt")) == LINES


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize("order", ["little", "big"])
def test_marks_of_both_byte_orders(tmp_path: Path, encoding: str, order: str) -> None:
    text = "\ufeff" + "\n".join(LINES)
    (tmp_path / "names.txt").write_bytes(text.encode(f"{encoding}-{order[0]}e"))
    assert read_lines("--labels", str(tmp_path / "names.txt")) == LINES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, ": No such file or directory"),
        (b"", ": is empty; expected one entry a line"),
        (b"\xef\xbb\xbf\r\n", ": is empty; expected one entry a line"),
        (b"cat\n\ndog\n", ", line 2: is empty; expected one entry a line"),
        ("cat\ndog\ncaf\u00e9\n".encode("latin-1"), ", line 3: is not UTF-8 text; save the file as UTF-8"),
        (b"cat\ndog\0\n", ", line 2: holds a zero byte"),
        (b"\xff\xfec\0\n\0d\0o", ", line 2: is not UTF-16-LE text"),
    ],
)
def test_an_error_names_flag_file_and_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "names.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=f"^--class-names {file}{message}") as raised:
        read_lines("--class-names", str(file))
    assert "\n" not in str(raised.value)


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^--labels {tmp_path}: Is a directory"):
        read_lines("--labels", str(tmp_path))


def test_a_name_is_found_as_another_file_system_writes_it() -> None:
    numbers = ClassNumbers(["cafe\u0301", "cat"])
    assert [numbers.get(name) for name in ("caf\u00e9", "cafe\u0301", "cat", "dog")] == [0, 0, 1, None]
    both = ClassNumbers(["caf\u00e9", "cafe\u0301"])  # two classes, however much they look like one
    assert [both.get(name) for name in ("caf\u00e9", "cafe\u0301")] == [0, 1]
