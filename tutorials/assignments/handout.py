"""Cut two things out of the library: the files that students get, and the library that runs beside a graded function.

Nothing is written twice. A stub is the library's own signature, docstring and shape contract. The part of the library
that comes with it is found by following names. A function is named by its file and its own name, "ops.attend_forward"
or "memories/lm2.write_forward"; a method is named with its class, "optim.AdamW.step".
"""

import ast
import re
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from pathlib import Path

from tinylm2.errors import BadInput

HERE = Path(__file__).resolve().parent
LIBRARY = HERE.parents[1] / "tinylm2"
# what docstrings say about files that students do not get
ELSEWHERE = re.compile(r";? docs/\w+\.md says why\.?| \(docs/\w+\.md\)|; data/rng\.py has the others"
                       r"|\s+PAGE_WRITE names the write of[^.]*\.js`[^.]*\.")
HEADING = re.compile(r"# -{20,}.*")                      # "# ------------ attend": the title of a part of a file
RULES = """Rules for every function here. Arrays are NumPy's: `Array` is a hint for the reader, `get_xp(x)` gives numpy.
Of the imports use what you need, and `import numpy as np` if you like. What you return has the dtype of the arguments:
x / 8**0.5 keeps float32, x / np.sqrt(8) does not. Arguments may have any layout in memory, and are left as they came.
A backward returns a tuple with one gradient for each argument of its forward that stands before the `*`, in order.
All that it needs of its forward goes into the cache: two calls may be under way at once. Where the sheet asks for
something else (in place, a `Flat`), the sheet is right.
"""


# ------------------------------------------------------------------------------------------------------ taking it apart


@dataclass(frozen=True)
class Statement:
    """A top-level statement of a file: it gives names, as a function, a class or a constant does, or has an effect."""

    node: ast.stmt
    above: tuple[str, ...]                               # the lines of comment above it
    text: str

    @property
    def names(self):
        if isinstance(self.node, ast.FunctionDef | ast.ClassDef):
            return [self.node.name]
        targets = getattr(self.node, "targets", [getattr(self.node, "target", None)])
        return [part.id for target in targets if isinstance(target, ast.Name | ast.Tuple | ast.List)
                for part in ast.walk(target) if isinstance(part, ast.Name)]


class Module:
    """One file of the library, taken apart."""

    def __init__(self, name):
        self.name, source = name, (LIBRARY / f"{name}.py").read_text(encoding="utf-8")
        self.lines, tree = source.splitlines(), ast.parse(source)
        self.docstring = ast.get_docstring(tree, clean=False)
        self.imports, self.statements = [], []
        end = 0
        for node in tree.body:
            start = _first_line(node)
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.imports.append(node)
            elif node.lineno > 1:                        # not the docstring
                above = tuple(line for line in self.lines[end:start] if line)
                self.statements.append(Statement(node, above, self.text(node)))
            end = node.end_lineno
        self.definitions = {name: statement for statement in self.statements for name in statement.names}

    def text(self, node):
        """The lines of a statement as they stand in the file."""
        return "\n".join(self.lines[_first_line(node):node.end_lineno])

    @cached_property
    def imported(self):
        """Name -> the (file, name) of the library that it stands for, (file, None) where it is a whole file."""
        found = {}
        for node in self.imports:
            home = getattr(node, "module", None) or ""
            for alias in node.names:
                if home.partition(".")[0] == "tinylm2":
                    whole = _file_of(f"{home}.{alias.name}")
                    found[alias.asname or alias.name] = (whole, None) if whole else (_file_of(home), alias.name)
        return found

    def uses(self, node):
        """The (file, name) of everything in the library that a piece of this file uses. A file that is handed on as a
        value, as `{"lm2": lm2}` does, is used as a whole."""
        asked = {part.value: part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and part.id in self.definitions:
                yield self.name, part.id
            elif isinstance(part, ast.Name) and part.id in self.imported:
                file, name = self.imported[part.id]
                if name or part in asked:
                    yield file, name or asked[part]
                else:
                    yield from ((file, name) for name in module(file).definitions)


def _first_line(node):
    return min(n.lineno for n in (node, *getattr(node, "decorator_list", ()))) - 1


@cache
def module(name):
    return Module(name)


def _file_of(dotted):
    """The file of a module or package, "memories/lm2" of "tinylm2.memories.lm2"; None where there is none."""
    path = dotted.replace(".", "/").removeprefix("tinylm2/")
    return next((file for file in (path, f"{path}/__init__") if (LIBRARY / f"{file}.py").is_file()), None)


def dotted(file):
    """What Python imports a file by: "tinylm2.memories.lm2" of "memories/lm2"."""
    return f"tinylm2/{file}".removesuffix("/__init__").replace("/", ".")


def top(name):
    """The (file, name) of the top-level definition: ("optim", "AdamW") of "optim.AdamW.step"."""
    file, name, *_ = name.split(".")
    return file, name


def function(name):
    """The ast of a definition, or of a method."""
    file, *path = name.split(".")
    node = module(file).definitions[path[0]].node
    for inner in path[1:]:
        node = next(part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == inner)
    return node


def closure(wanted, without=()):
    """The wanted definitions and all that they need, but neither those in `without` nor what only those need. A file's
    effects come with whatever is taken of it."""
    found, ahead = set(), list(wanted)
    while ahead:
        file, name = ahead.pop()
        if (file, name) not in found and (file, name) not in without:
            found.add((file, name))
            home = module(file)
            for statement in (home.definitions[name], *(s for s in home.statements if not s.names)):
                ahead += home.uses(statement.node)
    return found


def used_by(functions):
    """The definitions that these functions' own bodies use."""
    return {used for name in functions for used in module(top(name)[0]).uses(function(name))}


def solution(assignment):
    """The definitions that make the solution, beside the functions themselves: what is hidden, and the private helpers
    of the functions' files that are reached from them."""
    homes = {file for file, _ in map(top, assignment.functions)}
    hidden = {top(name) for name in assignment.hidden}
    parts, ahead = set(hidden), used_by((*assignment.functions, *assignment.hidden))
    while helpers := {name for name in ahead - parts if name[0] in homes and name[1].startswith("_")}:
        parts |= helpers
        ahead = used_by(f"{file}.{name}" for file, name in helpers)
    return parts


def offered(assignment):
    """What the library gives to whoever writes an assignment: all that its solution uses, and what the check needs, but
    nothing of the solution itself."""
    parts = solution(assignment)
    used = used_by((*assignment.functions, *(f"{file}.{name}" for file, name in parts))) - parts
    withheld = {top(name) for name in (*assignment.functions, *assignment.hidden)}
    return closure(used | {top(name) for name in assignment.needs}, withheld)


def beside(assignment, functions):
    """The library that runs beside some functions of an assignment under examination: what is offered, and of the
    assignment's other functions the solutions of those that these call; but nothing of theirs, and nothing hidden that
    only they use."""
    mine = {top(name) for name in functions}
    others = {top(name) for name in assignment.functions} & used_by(functions) - mine
    used = used_by(name for name in assignment.functions if top(name) not in mine)
    hidden = {top(name) for name in assignment.hidden} - used
    return closure(offered(assignment) | others, mine | hidden)


# -------------------------------------------------------------------------------------------------- putting it together


def library(kept, homes=()):
    """{path: text} of a tinylm2 that holds just these definitions; `homes` are there even where nothing is left."""
    letters, _, _ = module("__init__").docstring.rpartition("\n\n")     # what follows is about names that it loads
    files = {"tinylm2/__init__.py": f'"""{letters}\n"""\n'}
    taken = {file for file, _ in kept} | set(homes)
    for package in {file.rpartition("/")[0] for file in taken if "/" in file}:
        files[f"tinylm2/{package}/__init__.py"] = f'"""{module(f"{package}/__init__").docstring.splitlines()[0]}"""\n'
    for file in sorted(taken):
        home, parts, heading = module(file), [], ""
        for statement in home.statements:
            titles = [line for line in statement.above if HEADING.fullmatch(line)]
            heading = titles[-1] if titles else heading
            if not statement.names or any((file, name) in kept for name in statement.names):
                parts.append((statement, heading))
                heading = ""
        files[f"tinylm2/{file}.py"] = _file(home.docstring, [home], parts)
    return files


def students_file(assignment, *, solved=False):
    """The file that students write in: docstrings and contracts, and a NotImplementedError for each body.

    solved: the same file as the library fills it, with the private helpers of its files and what is hidden.
    """
    if hasattr(assignment, "students_file"):             # its functions stand in no file of the library
        return assignment.students_file(solved=solved)
    kept = {top(name) for name in assignment.functions} | (solution(assignment) if solved else set())
    parts, homes = [], [module(file) for file in dict.fromkeys(file for file, _ in map(top, assignment.functions))]
    for home in homes:
        for statement in home.statements:
            if any((home.name, name) in kept for name in statement.names):
                text = statement.text
                for name in () if solved else assignment.functions:
                    if top(name)[0] == home.name and top(name)[1] in statement.names:
                        text = text.replace(home.text(function(name)), stub(name, assignment.title))
                parts.append((Statement(statement.node, statement.above, text), ""))
    about = (f"{assignment.title}: {assignment.subject}.\n\n{assignment.name}.md says what each function must do; "
             f"`python check.py` checks them as far as you have come.\n\n{RULES}")
    text = _file(about, homes, parts, offered(assignment))
    return text if solved else varied(text, assignment, "stub")


def varied(text, assignment, which):
    """A text that students get, with the lines that a variant changes."""
    for variant in assignment.variants:
        for old, new in getattr(variant, which):
            if old not in text:
                raise ValueError(f"variant {variant.about}: found no {old!r} in the {which}")
            text = text.replace(old, new)
    return text


def stub(name, title):
    """A function with its body gone: what is left is its docstring, its shape contract and an error that says so.

    The contract is the body up to its last `check_shapes(...)` or `if ...: raise` before anything is computed. The
    docstring of a backward ends with its first sentence: the rest is the derivation, which is what students are here to
    find.
    """
    node, home = function(name), module(top(name)[0])
    docstring, *body = node.body
    indent = " " * docstring.col_offset
    text = "\n".join(home.lines[_first_line(node):docstring.lineno - 1])
    about = home.text(docstring)
    if name.endswith("_backward"):
        about = f'{indent}"""{re.split(r"[.:;]", docstring.value.value, maxsplit=1)[0].strip()}."""'
    contract = max((i + 1 for i, part in enumerate(body) if _is_contract(part)), default=0)
    kept = "\n".join(home.lines[docstring.end_lineno:body[contract - 1].end_lineno]) + "\n" if contract else ""
    return f'{text}\n{about}\n{kept}{indent}raise NotImplementedError("{title}: write {name.partition(".")[2]}")'


def _is_contract(node):
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return getattr(node.value.func, "id", None) == "check_shapes"
    return isinstance(node, ast.If) and len(node.body) == 1 and isinstance(node.body[0], ast.Raise) and not node.orelse


def _file(docstring, homes, parts, offers=()):
    """A file's text from (Statement, heading) pairs cut from some homes, with the imports that they need; what they
    use of their homes and is offered is imported from there."""
    names = {part.id for statement, _ in parts for part in ast.walk(statement.node) if isinstance(part, ast.Name)}
    imports, parts_of = set(), {}                        # `import x`; and what comes from each module
    for home in homes:
        for node in home.imports:
            kept = [alias for alias in node.names if (alias.asname or alias.name.partition(".")[0]) in names]
            if isinstance(node, ast.Import):
                imports |= {ast.unparse(ast.Import([alias])) for alias in kept}
            else:
                parts_of.setdefault(node.module, set()).update(map(ast.unparse, kept))
        public = {name for file, name in offers if file == home.name and name in names and not name.startswith("_")}
        parts_of.setdefault(dotted(home.name), set()).update(public)
    imports |= {f"from {name} import {', '.join(sorted(some))}" for name, some in parts_of.items() if some}
    texts, after_constant = [f'"""{docstring}"""\n', _sorted_imports(imports)], False
    for statement, heading in parts:
        constant = not isinstance(statement.node, ast.FunctionDef | ast.ClassDef)
        comments = [line for line in statement.above if not HEADING.fullmatch(line)]
        text = "\n".join([*([f"{heading}\n\n"] if heading else []), *comments, statement.text]) + "\n"
        texts.append(text if constant and after_constant and not heading else f"\n{text}")
        after_constant = constant
    return ELSEWHERE.sub("", "\n".join(text for text in texts if text))


def _sorted_imports(imports):
    """Imports in the house's order: the standard library, numpy, tinylm2; `import x` before `from x import y`."""
    def place(line):
        root = line.split()[1].partition(".")[0]
        return 0 if root in sys.stdlib_module_names else 2 if root == "tinylm2" else 1, line.startswith("from"), line

    groups = groupby(sorted(imports, key=place), key=lambda line: place(line)[0])
    return "\n".join("".join(f"{line}\n" for line in group) for _, group in groups)


# ---------------------------------------------------------------------------------------------------------- the handout


def files(assignment, *, solved=False):
    """{path: text} of the folder that students get: the sheet, the file to write in, its check, and the library that
    it stands on."""
    if solved and assignment.variants:
        raise BadInput("--solved: a variant has no written solution, expected the assignment without one")
    sheet = HERE / f"{assignment.name}.md"
    return {
        f"{assignment.name}.md": varied(sheet.read_text(encoding="utf-8"), assignment, "sheet"),
        f"my_{assignment.name}.py": students_file(assignment, solved=solved),
        "check.py": varied((HERE / f"check_{assignment.name}.py").read_text(encoding="utf-8"), assignment, "check"),
        "checking.py": (HERE / "checking.py").read_text(encoding="utf-8"),
        **(assignment.library() if hasattr(assignment, "library") else
           library(offered(assignment), [top(name)[0] for name in assignment.functions])),
    }


def write(files, folder):
    """Write {path: text} into a folder."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
