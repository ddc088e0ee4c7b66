"""Grading a class: which file is graded, what is refused, what the table and the pages say, what is called similar."""

import csv
import io
import json
import os
import re
import stat
import tarfile
import threading
import zipfile
from collections import Counter
from datetime import datetime, timezone

import pytest

from tutorials.assignments import classroom, handout, intake, pages
from tutorials.assignments.__main__ import main
from tutorials.assignments.grader import ASSIGNMENTS

ROOT = handout.HERE.parents[1]
A2 = ASSIGNMENTS["a2"]
SOLVED, STUBS = (handout.students_file(A2, solved=solved) for solved in (True, False))
HALF = SOLVED.replace("def rmsnorm_forward", "def rmsnorm_away")           # one pair of the two


def zipped(*entries, how=zipfile.ZIP_DEFLATED):
    """The bytes of a zip; an entry is (name or ZipInfo, text)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, text in entries:
            archive.writestr(name, text)
    return out.getvalue()


def tarred(*entries, mode="w"):
    """The bytes of a tar; an entry is (name or TarInfo, text)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, text in entries:
            entry = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            entry.size = len(text.encode()) if entry.isreg() else 0
            archive.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


def zip_link(name):
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def tar_entry(name, kind, target=""):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def encrypted():
    data = bytearray(zipped(("my_a2.py", "x")))
    for at in (data.index(b"PK\3\4") + 6, data.index(b"PK\1\2") + 8):
        data[at] |= 1
    return bytes(data)


# ------------------------------------------------------------------------------------------------------------- archives


@pytest.mark.parametrize("data", [
    zipped(("a/my_a2.py", "x = 1")), zipped(("a/my_a2.py", "x = 1"), how=zipfile.ZIP_LZMA),
    zipped(("a/my_a2.py", "x = 1"), how=zipfile.ZIP_BZIP2), zipped(("a\\my_a2.py", "x = 1")),
    *(tarred(("./a/my_a2.py", "x = 1"), mode=f"w{how}") for how in ("", ":gz", ":bz2", ":xz"))],
    ids=["zip", "lzma zip", "bzip2 zip", "backslash", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_an_archive_is_known_by_what_is_in_it(data):
    assert intake.is_archive(data)
    assert [(path, found) for path, found, _ in classroom._unpacked(data)] == [("a/my_a2.py", b"x = 1")]


def test_what_systems_leave_in_archives_is_left_out():
    data = zipped(("__MACOSX/._my_a2.py", ""), ("a/.DS_Store", ""), ("a/._my_a2.py", ""), ("a/my_a2.py", ""))
    assert [path for path, _, _ in intake.unpack(data)] == ["a/my_a2.py"]


HOSTILE = {
    "a zip path upwards": (zipped(("a/../../my_a2.py", "x")), "leads outside"),
    "an absolute zip path": (zipped(("/etc/my_a2.py", "x")), "leads outside"),
    "a drive": (zipped(("C:/my_a2.py", "x")), "leads outside"),
    "a Windows path upwards": (zipped(("..\\my_a2.py", "x")), "leads outside"),
    "a tar path upwards": (tarred(("../my_a2.py", "x")), "leads outside"),
    "an absolute tar path": (tarred(("/etc/my_a2.py", "x")), "leads outside"),
    "a link in a zip": (zipped((zip_link("my_a2.py"), "/etc/passwd")), "a link"),
    "a link in a tar": (tarred((tar_entry("my_a2.py", tarfile.SYMTYPE, "/etc/passwd"), "")), "a link"),
    "a hard link": (tarred((tar_entry("my_a2.py", tarfile.LNKTYPE, "/etc/passwd"), "")), "a link"),
    "a device": (tarred((tar_entry("my_a2.py", tarfile.CHRTYPE), "")), "a link or a device"),
    "a file of holes": (tarred((tar_entry("my_a2.py", tarfile.GNUTYPE_SPARSE), "")), "a link or a device"),
    "a pipe": (tarred((tar_entry("my_a2.py", tarfile.FIFOTYPE), "")), "a link or a device"),
    "a zip bomb": (zipped(("my_a2.py", "#" * (intake.UNPACKED + 1))), "more than 64 MiB"),
    "a tar bomb": (tarred(("my_a2.py", "#" * (intake.UNPACKED + (32 << 20))), mode="w:gz"), "more than 64 MiB"),
    "many small files": (zipped(*((f"{i}.py", "") for i in range(intake.ENTRIES + 1)), how=zipfile.ZIP_STORED),
                         "more than 20000 entries"),
    "an encrypted file": (encrypted(), "encrypted"),
    "a path twice": (tarred(("my_a2.py", "x"), ("./my_a2.py", "y")), "twice"),
    "half a zip": (zipped(("my_a2.py", "x" * 1000))[:60], "damaged"),
    "half a tar.gz": (tarred(("my_a2.py", SOLVED), mode="w:gz")[:200], "damaged"),
    "a wrong checksum": (zipped(("my_a2.py", "x"), how=zipfile.ZIP_STORED).replace(b"my_a2.pyx", b"my_a2.pyy"),
                         "damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_with_its_reason(name):
    data, reason = HOSTILE[name]
    assert intake.is_archive(data)
    with pytest.raises(intake.Refused, match=reason):
        classroom._unpacked(data)


def test_whoever_opens_an_archive_outlives_it(monkeypatch):
    """A parser that dies or does not end is another process."""
    monkeypatch.setattr(classroom, "HERE", classroom.HERE / "nowhere")     # there is no intake.py: it ends at once
    with pytest.raises(intake.Refused, match="ends the process"):
        classroom._unpacked(zipped(("my_a2.py", "x")))


# ----------------------------------------------------------------------------------------------------- finding the file


def made(*files, problem=""):
    return classroom.Submission("ann", files=[(name, text.encode()) for name, text in files], problem=problem)


@pytest.mark.parametrize(("files", "path"), [
    ([("ann.py", "x")], "ann.py"), ([("a/my_a2.py", "x"), ("a/other.py", "y")], "a/my_a2.py"),
    ([("a/solution.py", "x"), ("a/check.py", ""), ("a/checking.py", ""), ("a/tinylm2/ops.py", "")], "a/solution.py")])
def test_the_file_with_the_assignments_name_is_graded_or_the_only_one(files, path):
    assert classroom.chosen(made(*files), A2)[0] == path


@pytest.mark.parametrize(("files", "reason"), [
    ([], "found no Python file, expected my_a2.py"), ([("notes.txt", "")], "found no Python file"),
    ([("a.py", ""), ("b.py", "")], r"found 2 files \(a.py, b.py\), expected one named my_a2.py"),
    ([("new/my_a2.py", ""), ("old/my_a2.py", "")], "found 2 files")])
def test_what_leaves_a_choice_is_not_guessed(files, reason):
    with pytest.raises(intake.Refused, match=reason):
        classroom.chosen(made(*files), A2)


@pytest.mark.parametrize(("name", "student", "identifier"), [
    ("Ann Lee_4711_assignsubmission_file_", "Ann Lee", "4711"), ("Zoë_12_assignsubmission_file_my_a2.py", "Zoë", "12"),
    ("ann.py", "ann", ""), ("ann.tar.gz", "ann", ""), ("a.b.zip", "a.b", "")])
def test_the_student_is_named_by_moodle_or_by_the_file(name, student, identifier):
    found = classroom._named(name, folder=False)
    assert (found.student, found.identifier) == (student, identifier)


def test_folders_files_archives_and_an_archive_of_them_are_submissions(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "ann.py").write_text(SOLVED)
    (tmp_path / "in" / ".hidden").write_text("")
    (tmp_path / "in" / "Bo_7_assignsubmission_file_").mkdir()
    (tmp_path / "in" / "Bo_7_assignsubmission_file_" / "x.zip").write_bytes(zipped(("handout/my_a2.py", HALF)))
    (tmp_path / "in" / "cy.anything").write_bytes(tarred(("my_a2.py", STUBS), mode="w:gz"))
    found = classroom.submissions(tmp_path / "in", A2)
    assert [one.student for one in found] == ["Bo", "ann", "cy"]
    assert [classroom.chosen(one, A2)[1].decode() for one in found] == [HALF, SOLVED, STUBS]

    whole = zipped(("Bo_7_assignsubmission_file_/x.zip", zipped(("my_a2.py", HALF))),
                   ("Ann_8_assignsubmission_file_/a.py", SOLVED))
    (tmp_path / "all.zip").write_bytes(whole)
    found = classroom.submissions(tmp_path / "all.zip", A2)
    assert [(one.student, one.identifier) for one in found] == [("Ann", "8"), ("Bo", "7")]
    assert [classroom.chosen(one, A2)[1].decode() for one in found] == [SOLVED, HALF]


def test_a_folder_or_an_archive_of_one_student_is_one_submission(tmp_path):
    (tmp_path / "ann").mkdir()
    for name in ("my_a2.py", "check.py"):
        (tmp_path / "ann" / name).write_text(SOLVED)
    (tmp_path / "bo.zip").write_bytes(zipped(("my_a2.py", SOLVED), ("check.py", "")))
    assert [one.student for one in classroom.submissions(tmp_path / "ann", A2)] == ["ann"]
    assert [one.student for one in classroom.submissions(tmp_path / "bo.zip", A2)] == ["bo"]


def test_a_link_is_not_followed_to_another_students_work(tmp_path):
    (tmp_path / "ann.py").write_text(SOLVED)
    (tmp_path / "bo.py").symlink_to(tmp_path / "ann.py")
    (tmp_path / "cy").mkdir()
    (tmp_path / "cy" / "my_a2.py").symlink_to(tmp_path / "ann.py")
    problems = [one.problem for one in classroom.submissions(tmp_path, A2)]
    assert problems == ["", "it is a link", "my_a2.py is a link"]


# ---------------------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """A class of five, graded once: (status, folder)."""
    folder = tmp_path_factory.mktemp("class")
    (folder / "in").mkdir()
    (folder / "in" / "ann.py").write_text(SOLVED)
    (folder / "in" / "=1+1.py").write_text(HALF)
    (folder / "in" / "<b>bo.py").write_text(STUBS)
    (folder / "in" / "cy.zip").write_bytes(zipped(("../my_a2.py", "x")))
    (folder / "in" / "Di_42_assignsubmission_file_").mkdir()
    (folder / "in" / "Di_42_assignsubmission_file_" / "my_a2.py").write_text(
        SOLVED + "\ndef cross_entropy_forward(*args, **more):\n    while True:\n        pass\n")
    for name, day in (("ann.py", 1), ("=1+1.py", 3)):
        moment = datetime(2026, 11, day, 12, tzinfo=timezone.utc).timestamp()
        os.utime(folder / "in" / name, (moment, moment))
    status = main(["grade", "a2", str(folder / "in"), "--csv", str(folder / "marks.csv"), "--seed", "3",
                   "--seconds", "1", "--report", str(folder / "report"), "--json", str(folder / "class.json"),
                   "--due", "2026-11-02T00:00+00:00"])
    return status, folder


def by_student(folder):
    return {report["student"]: report for report in json.loads((folder / "class.json").read_text())["reports"]}


def test_a_class_is_graded_with_one_seed_and_each_gets_what_one_file_gets(graded):
    status, folder = graded
    reports = by_student(folder)
    assert status == 1                                   # one could not be opened
    assert {report["seed"] for report in reports.values()} == {3}
    points = {name: report["points"] for name, report in reports.items()}
    assert points["ann"] == 100
    assert points["<b>bo"] == points["cy"] == 0
    assert 0 < points["=1+1"] < 100
    assert 0 < points["Di"] < 100
    assert "leads outside" in reports["cy"]["problem"]
    assert all(report["out_of"] == 100 for report in reports.values())


def test_each_report_says_who_which_file_when_and_whether_late(graded):
    reports = by_student(graded[1])
    assert (reports["ann"]["late"], reports["=1+1"]["late"]) == (False, True)
    assert datetime.fromisoformat(reports["ann"]["time"]) == datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
    assert reports["Di"]["file"] == "Di_42_assignsubmission_file_/my_a2.py"
    assert reports["Di"]["identifier"] == "42"


def test_what_was_stopped_is_said_with_its_reason(graded):
    _, folder = graded
    stopped = by_student(folder)["Di"]["stopped"]
    assert stopped[0][0] == "cross_entropy_forward"
    assert "it was stopped after 1 seconds" in stopped[0][2]
    assert "it was stopped after 1 seconds" in (folder / "report" / "index.html").read_text()


def test_the_table_is_moodles_worksheet_and_holds_no_formula(graded):
    """The columns that Moodle's importer looks for, and cells that no spreadsheet computes."""
    text = (graded[1] / "marks.csv").read_bytes().decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0])[:6] == ["Identifier", "Full name", "Grade", "Maximum Grade", "Last modified (grade)",
                                 "Feedback comments"]
    assert len(rows) == 5
    names = {row["Full name"]: row for row in rows}
    assert names["'=1+1"]["Late"] == "yes"
    assert names["Di"]["Identifier"] == "Participant 42"
    assert names["ann"]["Grade"] == names["ann"]["Maximum Grade"] == "100"
    assert sum(int(names["Di"][name.partition(".")[2]]) for name in A2.functions) == int(names["Di"]["Grade"])
    assert not [cell for row in rows for cell in row.values() if cell.startswith(pages.FORMULA)]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", " =1", "＝1", "\u200b=1", "|cmd", "=1\n=2"])
def test_no_cell_begins_like_a_formula_or_has_two_lines(text):
    written = pages.cell(text)
    assert written.startswith("'")
    assert "\n" not in written


def test_the_pages_escape_what_students_wrote_and_load_nothing(graded):
    folder = graded[1] / "report"
    paths = sorted(folder.rglob("*.html"))
    assert len(paths) == 6
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert "<b>bo" not in text
        assert not re.search(r"<script|<img|<link|javascript:|src=|@import|url\(", text)
        assert "default-src 'none'" in text
    index = (folder / "index.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;bo" in index
    for target in re.findall(r'href="([^"]+)"', index):
        assert (folder / target).is_file()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_the_pages_fit_a_screen_and_a_phone_in_light_and_dark(width, dark, graded, tab):
    tab.size(width, dark=dark)
    for path in sorted((graded[1] / "report").rglob("*.html")):
        tab.open(path.read_text(encoding="utf-8"))
        assert tab.run("return document.documentElement.scrollWidth") <= width, path.name
        ink, paper = tab.run("""
            const style = getComputedStyle(document.body), sum = text => text.match(/\\d+/g).reduce((a, b) => a + +b, 0)
            return [sum(style.color), sum(style.backgroundColor)]""")
        assert (ink > paper) == dark
        assert abs(ink - paper) > 400
    assert not tab.complaints()


def test_a_students_page_names_nobody_else(graded):
    folder = graded[1] / "report" / "students"
    for path in folder.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        own = json.loads(path.with_suffix(".json").read_text())["student"]
        for other in {"ann", "=1+1", "Di", "<b>bo"} - {own}:
            assert not re.search(rf"\b{re.escape(pages._text(other))}\b", text), (path.name, other)


def test_the_page_of_the_class_counts_mistakes_over_students(graded):
    klass = json.loads((graded[1] / "class.json").read_text())
    assert ["cross_entropy_forward", "it is not written yet", 1] in klass["mistakes"]
    lost = klass["functions"]["rmsnorm_forward"]
    assert lost == {"mean": round((lost["out_of"] * 2) / 4, 1), "all": 2, "none": 2, "out_of": lost["out_of"]}
    assert (klass["students"], klass["graded"]) == (5, 4)


def test_the_causes_are_counted_and_not_what_follows_from_them():
    lines = [["dx is dy times 2", "at [0, 1] it says 3.5, expected 7"], ["not judged yet: f must be right first"],
             ["its contract is kept, as far as its gradients are right"], ["dx is dy times 3"]]
    report = {"tests": [{"function": "f", "feedback": some} for some in lines]}
    assert classroom.mistakes([report, report]) == [["f", "dx is dy times …", 2]]


def refused(arguments, capsys):
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_nothing_is_written_among_the_submissions_or_over_a_folder_with_files(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "ann.py").write_text(SOLVED)
    for option in ("--csv", "--json", "--report"):
        assert "among the submissions" in refused(["grade", "a2", folder, option, folder / "x"], capsys)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "thesis.txt").write_text("")
    assert "expected a new or an empty" in refused(["grade", "a2", folder, "--report", tmp_path / "report"], capsys)
    (tmp_path / "empty").mkdir()
    assert "found nothing" in refused(["grade", "a2", tmp_path / "empty"], capsys)
    assert "found one file" in refused(["grade", "a2", folder / "ann.py", "--csv", tmp_path / "x.csv"], capsys)
    assert "expected such as" in refused(["grade", "a2", folder, "--due", "tomorrow"], capsys)
    assert "required" in refused(["grade", "a2"], capsys)


def test_a_grader_that_does_not_end_costs_one_student(monkeypatch):
    monkeypatch.setattr(classroom, "GRACE", -0.9)
    found = [made(("my_a2.py", SOLVED)), made(problem="it is a link")]
    reports = classroom.grade_class(found, A2, asked="a2", seed=1, seconds=1, budget=1, say=lambda line: None)
    assert [report["problem"] for report in reports] == ["its grader was stopped after 0 s", "it is a link"]
    assert [(report["points"], report["out_of"]) for report in reports] == [(0, 100), (0, 100)]


def test_two_files_are_graded_at_a_time_and_progress_is_told(monkeypatch):
    """Two wait for each other: one at a time would never end."""
    both, lines = threading.Barrier(2, timeout=20), []

    def waits(number, one, **_):
        both.wait()
        return classroom._blank(A2, 1, problem=f"problem {number}", file="")

    monkeypatch.setattr(classroom, "_graded", waits)
    found = [made(), made(), made(), made()]
    reports = classroom.grade_class(found, A2, asked="a2", seed=1, seconds=1, budget=1, jobs=2, say=lines.append)
    assert [report["problem"] for report in reports] == [f"problem {i}" for i in range(4)]
    assert [line.split("  ")[0] for line in lines] == [f"{i} of 4" for i in (1, 2, 3, 4)]
    assert all(" left)" in line for line in lines)


def test_the_json_of_one_file_says_who_and_when(tmp_path):
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "my_a2.py").write_text(STUBS)
    arguments = ["grade", "a2", str(tmp_path / "ann" / "my_a2.py"), "--json", str(tmp_path / "r.json")]
    assert main([*arguments, "--due", "2020-01-01T00:00"]) == 1
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["student"], report["file"], report["late"], report["stopped"]) == ("ann", "my_a2.py", True, [])
    assert main([*arguments, "--student", "Ann Lee"]) == 1
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["student"], report["late"]) == ("Ann Lee", None)


# ----------------------------------------------------------------------------------------------------------- similarity


MINE = '''
def rmsnorm_backward(dy, cache):
    """Mine."""
    n, r, g = cache
    dn = g * dy
    dg = (dy * n).reshape(-1, g.size).sum(0)
    dx = r * (dn - n * (dn * n).mean(-1, keepdims=True))
    return dx, dg
'''
COPIED = '''
def rmsnorm_backward(up, saved):
    # all of it my own
    normed, scale, gain = saved
    inner: object = up * gain
    left = scale * (inner - normed * (normed * inner).mean(-1, keepdims=True))
    right = (normed * up).reshape(-1, gain.size).sum(0)
    return left, right
'''
OTHER = '''
def rmsnorm_backward(dy, cache):
    x, r, g = cache
    D = x.shape[-1]
    dg = np.einsum("...d,...d->d", dy, x * r)
    s = (dy * g * x).sum(-1, keepdims=True)
    dx = dy * g * r - x * r ** 3 * s / D
    return dx, dg
'''


def pieces(source, name="rmsnorm_backward"):
    return intake.trees(source.encode())[name]


def test_a_copy_with_other_names_comments_and_order_is_the_same_tree():
    assert classroom.alike(pieces(MINE), pieces(COPIED)) > 0.9
    assert classroom.alike(pieces(MINE), pieces(MINE)) == 1


def test_another_way_to_the_same_gradient_is_not_similar():
    assert classroom.alike(pieces(MINE), pieces(OTHER)) < 0.5


def test_another_variable_makes_another_tree():
    changed = MINE.replace("dn - n * (dn * n)", "dn - n * (dn * dn)")
    assert classroom.alike(pieces(MINE), pieces(changed)) < 1


def test_the_librarys_own_implementations_of_one_function_are_not_called_similar():
    """attend_backward is written five times: the library, lesson 8, one page, plain.py and by_hand.py."""
    ways = [found for where, found in classroom._published({}) if where.endswith(", attend_backward")]
    assert len(ways) == 5
    assert max(classroom.alike(a, b) for i, a in enumerate(ways) for b in ways[:i]) < 0.6


@pytest.mark.parametrize("file", ["plain.py", "by_hand.py", "a7_solution.py"])
def test_a_copy_of_a_solution_that_this_repository_holds_is_reported(file):
    """Renamed, and compared with all that is published."""
    source = (handout.HERE / file).read_text(encoding="utf-8")
    renamed = re.sub(r"\b(cache|eps|rows|dy)\b", r"my_\1", source)
    report = {"student": "ann", "pieces": intake.trees(renamed.encode())}
    _, published, _ = classroom.similarities([report], ASSIGNMENTS["a3"])
    like = {pair["function"]: pair["like"] for pair in published}
    long = {name for name, found in report["pieces"].items() if found.total() >= classroom.LONG_ENOUGH}
    assert long
    assert long - {"self_attention_backward"} <= like.keys()
    assert sum(f"assignments/{file}" in where for where in like.values()) > 0.6 * len(long)


def test_no_file_outside_what_is_compared_holds_a_solution():
    """Every function of the clone with the name of one that is asked for."""
    asked = {name.partition(".")[2] for one in ASSIGNMENTS.values() for name in one.functions}
    compared = {where.partition(",")[0] for where, _ in classroom._published({})}
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith((".", "build/", "dist/")) or name in compared:
            continue
        found = intake.trees(path.read_bytes())
        assert not [f for f in asked & found.keys() if found[f].total() >= classroom.LONG_ENOUGH], name


def test_a_function_of_another_length_is_never_as_similar():
    """What the comparison passes over could not have been listed."""
    short, long = Counter(range(20)), Counter(range(31))
    assert classroom.alike(short, long) < classroom.ALIKE <= classroom.alike(short, Counter(range(30)))


def test_similar_functions_are_reported_and_never_marked(graded):
    """ann, =1+1 and Di have the library's solution, each with her own mistake; bo has the stubs, like everyone."""
    klass = json.loads((graded[1] / "class.json").read_text())
    pairs = {(pair["student"], pair["like"]) for pair in klass["similar"]}
    assert {tuple(sorted(pair)) for pair in pairs} == {("=1+1", "Di"), ("=1+1", "ann"), ("Di", "ann")}
    assert {pair["student"] for pair in klass["published"]} == {"ann", "=1+1", "Di"}
    assert any(pair["like"] == "tinylm2/ops.py, cross_entropy_forward" for pair in klass["published"])
    assert by_student(graded[1])["ann"]["points"] == 100


@pytest.mark.parametrize("source", [b"def f(:\n", b"\0", b"(" * 100_000, b"-" * 1_000_000,
                                    b"x=" + b"1+" * 200_000 + b"1", b"#" * (intake.SOURCE + 1)],
                         ids=["syntax", "zero", "brackets", "minus", "sum", "long"])
def test_a_source_that_no_parser_takes_is_refused_and_harms_nobody(source):
    with pytest.raises(intake.Refused):
        classroom._opened(source, "trees")


def test_trees_are_counters_of_pieces():
    found = intake.trees(b"class A:\n    def f(self, x):\n        y = x + 1\n        z = x + 1\n")
    assert isinstance(found["A.f"], Counter)
    assert 2 in found["A.f"].values()
