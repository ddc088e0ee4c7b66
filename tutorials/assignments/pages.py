"""What a teacher keeps of a graded class: a table for Moodle and spreadsheets, and pages that any browser shows.

Names and feedback come from students. In the table no cell begins like a formula; in the pages everything is escaped,
and nothing is loaded or run.
"""

import csv
import html
import io
import json
import re
from collections import Counter

from tutorials.assignments.feedback import printable

FORMULA = tuple("=+-@\t\r\n|%＝＋－＠")                     # how a cell begins that a spreadsheet computes
SHOWN = 40                                               # similar pairs on the page of a class; the JSON has them all
STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --paper: #fff; --quiet: #56657a; --line: #dde3ea; --empty: #e6ebf1;
       --full: #2f6db5; --lost: #a4262c; --link: #1f5fa8 }
@media (prefers-color-scheme: dark) { :root { --ink: #dbe2ea; --paper: #14191f; --quiet: #9dabba; --line: #2e3843;
       --empty: #2a343f; --full: #5b95d6; --lost: #f19a9a; --link: #8dbbf2 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
       margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.1rem; margin-top: 2rem } p { margin: .4rem 0 }
a { color: var(--link) } .wide { overflow-x: auto }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top; padding: .3rem .6rem;
       border-bottom: 1px solid var(--line) } th { color: var(--quiet); font-weight: 600 }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums } .quiet { color: var(--quiet) }
.bar { display: inline-block; width: 12rem; max-width: 25vw; height: .8rem; background: var(--empty) }
.bar span { display: block; height: 100%; background: var(--full) } .lost { color: var(--lost) } ul { margin: 0;
       padding-left: 1.1rem } code { font: .92em ui-monospace, monospace }
svg { max-width: 100%; height: auto } svg rect { fill: var(--full) }
svg text { font: 11px system-ui, sans-serif; fill: var(--quiet) }
@media (max-width: 500px) { td, th { padding: .3rem .35rem } svg text { font-size: 15px } }
"""


# ------------------------------------------------------------------------------------------------------------ the table


def table(reports):
    """The text of a CSV file, a line per student.

    The first six columns are those of Moodle's offline grading worksheet, so Moodle takes the file as it is. It begins
    with the mark by which spreadsheets know UTF-8.
    """
    functions = list(dict.fromkeys(name for report in reports for name in report["functions"]))
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\r\n").writerow
    write(["Identifier", "Full name", "Grade", "Maximum Grade", "Last modified (grade)", "Feedback comments", "Late",
           "Submitted", "File", *functions, "Seconds", "Stopped", "Note", "Seed", "SHA-256"])
    for report in reports:
        write([cell(value) for value in (
            f"Participant {report['identifier']}" if report["identifier"] else "", report["student"], report["points"],
            report["out_of"], "", " | ".join(said(report)),
            {None: "", True: "yes", False: "no"}[report["late"]], report["time"] or "", report["file"],
            *(report["functions"].get(name, {}).get("points", "") for name in functions),
            report["seconds"], " | ".join(f"{function}: {why}" for function, why, _ in _stops(report)),
            report["note"], report["seed"], report["sha256"])])
    return "\ufeff" + out.getvalue()


def cell(value):
    """A value as it may stand in a spreadsheet: one line, and never a formula."""
    if not isinstance(value, str):
        return value
    text = " ".join("".join(c if c.isprintable() else " " for c in value).split())
    return f"'{text}" if value.startswith(FORMULA) or text.startswith(FORMULA) else text


def said(report):
    """Every line that a student is told, once."""
    problem = [f"not graded: {report['problem']}"] if report["problem"] else []
    lines = (f"{test['function']}: {line}" for test in report["tests"] for line in test["feedback"])
    return list(dict.fromkeys([*problem, *report["rules_broken"], *lines]))


# ------------------------------------------------------------------------------------------------------------ the pages


def files(klass):
    """{path: text} of a report folder: the class, and a page and the JSON of each student."""
    names = [f"{number:03}-{re.sub(r'[^A-Za-z0-9]+', '-', report['student']).strip('-')[:40] or 'student'}"
             for number, report in enumerate(klass["reports"], 1)]
    made = {"index.html": class_page(klass, names), "class.json": json.dumps(klass, indent=1) + "\n"}
    for name, report in zip(names, klass["reports"], strict=True):
        made[f"students/{name}.html"] = student_page(report)
        made[f"students/{name}.json"] = json.dumps(report, indent=1) + "\n"
    return made


def student_page(report):
    """The page of one student: nothing of another one is on it."""
    parts = [f"<h1>{_text(report['student'])}: {report['points']} of {report['out_of']} points</h1>", _facts(report)]
    if report["problem"]:
        parts.append(f'<p class="lost">Not graded: {_text(report["problem"])}</p>')
    parts += [f'<p class="lost">{_text(line)}</p>' for line in report["rules_broken"]]
    if report["note"]:
        parts.append(f'<p class="quiet">{_text(report["note"])}</p>')
    parts.append(_rows(("function", "", ">points"), (
        (_code(name), _bar(of["points"], of["out_of"]), _of(of)) for name, of in
        report["functions"].items())))
    if report["tests"]:
        parts.append("<h2>Tests</h2>" + _rows(("function", "test", ">points"), (
            (_code(test['function']), _text(test["title"]) + _lines(test["feedback"]), _of(test))
            for test in report["tests"])))
    if report["stopped"]:
        parts.append("<h2>What was stopped</h2>" + _stopped([report]))
    return _page(f"{report['assignment']}: {report['student']}", parts)


def class_page(klass, names):
    """The page of a class, for its teacher."""
    reports = klass["reports"]
    parts = [f"<h1>{_text(klass['assignment'])}, {_text(klass['subject'])}: {klass['students']} students</h1>",
             f'<p class="quiet">Seed {klass["seed"]}. {klass["graded"]} graded'
             + (f", {klass['students'] - klass['graded']} not graded" if klass["graded"] < klass["students"] else "")
             + (f". Mean {klass['mean']:g}, median {klass['median']:g} points" if klass["graded"] else "")
             + (f". Due {_moment(klass['due'])}, {sum(report['late'] is True for report in reports)} late"
                if klass["due"] else "") + ".</p>",
             _histogram([report for report in reports if not report["problem"]]), "<h2>Points by function</h2>",
             _rows(("function", "mean", ">", ">all points", ">no points"), (
                 (_code(name), _bar(of["mean"], of["out_of"]), f"{of['mean']:g} of {of['out_of']}",
                  of["all"], of["none"]) for name, of in klass["functions"].items()))]
    if klass["mistakes"]:
        parts.append("<h2>Most frequent mistakes</h2>" + _rows(("function", "feedback", ">students"), (
            (_code(function), _text(text), n) for function, text, n in klass["mistakes"])))
    parts.append("<h2>Students</h2>" + _rows(("student", ">points", "late", ">seconds", "to look at"), (
        (f'<a href="students/{_text(name)}.html">{_text(report["student"])}</a>', report["points"],
         "late" if report["late"] else "", f"{report['seconds']:.1f}", _to_look_at(report))
        for name, report in zip(names, reports, strict=True))))
    if any(report["stopped"] for report in reports):
        parts.append("<h2>What was stopped</h2>" + _stopped(reports))
    parts.append(_similar(klass))
    return _page(f"{klass['assignment']}: {klass['students']} students", parts)


def _similar(klass):
    if klass["similar_median"] is None and not klass["published"]:
        return ""
    median = "" if klass["similar_median"] is None else (
        f" Over all pairs of students the median is {klass['similar_median']:.0%}.")
    about = ("<h2>Similar functions</h2><p>The share of the pieces of two syntax trees that both have: renaming, "
             "comments and the order of lines change nothing. It changes no mark. Right solutions of a short function "
             f"are similar without copying, so compare with the median, and read both.{median}</p>")
    published = klass["published"]
    return about + "".join((_pairs("another student", klass["similar"], klass["similar_pairs"]),
                            _pairs("the library, a lesson or the assignments", published, len(published))))


def _pairs(what, pairs, number):
    if not pairs:
        return f'<p class="quiet">No function is like that of {what}.</p>'
    rest = f'<p class="quiet">And {number - SHOWN} more: class.json.</p>' if number > SHOWN else ""
    return _rows(("student", "function", f"like {what}", ">share"), (
        (_text(pair["student"]), _code(pair["function"]), _text(pair["like"]), f"{pair['share']:.0%}")
        for pair in pairs[:SHOWN])) + rest


def _to_look_at(report):
    lines = [f"not graded: {report['problem']}"] if report["problem"] else []
    note = f'<span class="quiet">{_text(report["note"])}</span>' if report["note"] else ""
    return _lines([*lines, *report["rules_broken"]][:3]) + note


def _stops(report):
    """(function, why, number of tests) of what was stopped: the first reason speaks for a function."""
    whys = {}
    for function, _, why in report["stopped"]:
        whys.setdefault(function, []).append(why)
    return [(function, lines[0], len(lines)) for function, lines in whys.items()]


def _stopped(reports):
    return _rows(("student", "function", "why", ">tests"), (
        (_text(report["student"]), _code(function), _text(why), n)
        for report in reports for function, why, n in _stops(report)))


def _facts(report):
    facts = [report["assignment"], report["subject"], report["file"], f"seed {report['seed']}"]
    facts += [f"submitted {_moment(report['time'])}"] if report["time"] else []
    facts += ["late" if report["late"] else "in time"] if report["late"] is not None else []
    return f'<p class="quiet">{_text(", ".join(filter(None, facts)))}</p>'


def _histogram(reports):
    """How many students have 0 to 9, 10 to 19, ... points, as a drawing."""
    counts = Counter(min(10 * report["points"] // max(1, report["out_of"]), 10) for report in reports)
    most = max(counts.values(), default=1)
    bars = []
    for tenth in range(11):
        height, x = 60 * counts[tenth] / most, 10 + 48 * tenth
        label = "all" if tenth == 10 else 10 * tenth
        bars.append(f'<rect x="{x}" y="{80 - height:.1f}" width="40" height="{height:.1f}"/>'
                    f'<text x="{x + 20}" y="96" text-anchor="middle">{label}</text>'
                    + (f'<text x="{x + 20}" y="{75 - height:.1f}" text-anchor="middle">{counts[tenth]}</text>'
                       if counts[tenth] else ""))
    return (f'<svg viewBox="0 0 540 100" width="540" role="img" aria-label="students by percent of the points">'
            f'{"".join(bars)}</svg><p class="quiet">Students by percent of the points, in steps of 10.</p>')


def _bar(points, most):
    return f'<span class="bar"><span style="width:{100 * points / max(1, most):.0f}%"></span></span>'


def _of(of):
    return f"{of['points']:g} of {of['out_of']:g}"


def _lines(lines):
    return f'<ul class="lost">{"".join(f"<li>{_text(line)}</li>" for line in lines)}</ul>' if lines else ""


def _rows(header, rows):
    """A table of cells that are HTML. A column whose header begins with > stands to the right."""
    right = [text.startswith(">") for text in header]

    def one(tag, cells):
        return "".join(f"<{tag}{' class=n' if to_the_right else ''}>{text}</{tag}>"
                       for text, to_the_right in zip(cells, right, strict=True))

    body = "".join(f"<tr>{one('td', row)}</tr>" for row in rows)
    head = one("th", [text.removeprefix(">") for text in header])
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _code(name):
    return f"<code>{_text(name).replace('_', '_<wbr>')}</code>"          # a long name may go on in a new line there


def _moment(iso):
    """A time of ISO 8601 as people write it: 2026-11-24 00:00."""
    return _text(re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d).*", r"\1 \2", iso))


def _text(value):
    return html.escape(printable(str(value), 600))


def _page(title, parts):
    return ('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>\n" + "\n".join(parts)
            + "\n</body></html>\n")
