"""Every change of one place in a function's lines, as trying.py makes them: an edit of its ast, and words for it."""

import ast
import copy
import re
from itertools import combinations

SHOWN = 28                                               # characters of a factor that a text shows
SKIPPED = {"np", "ops", "model", "math", "Flat", "check_shapes", "range", "min", "max", "abs", "float", "int", "tuple",
           "len", "bool", "enumerate", "self", "layers"}
UNARY = {"tanh": "tanh", "exp": "the exponential", "sqrt": "the root", "log": "the logarithm", "abs": "the absolute "
         "value", "cos": "the cosine", "sin": "the sine"}
INDICES = {"targets", "pad", "own", "place", "U", "N", "end", "rows", "s"}
AXES = (-1, -2, 0, 1, 2, 3)

# An edit is (put, back, text, rank, names): what makes it and what takes it back, what is then wrong in words, the
# smaller rank the likelier, and the (old, new) names where one name takes another's place.


def of(node, extra=()):
    """Every edit of a function's ast.  extra: names that its lines do not have and a student's may."""
    return sorted(_Edits(node, extra).all(), key=lambda edit: edit[3])


class _Edits:
    """Every edit of a function as (put, back, text, rank)."""

    def __init__(self, node, extra):
        self.node = node
        self.names = sorted({part.id for part in ast.walk(node) if isinstance(part, ast.Name)
                             and isinstance(part.ctx, ast.Store)} | {arg.arg for arg in (
                                 *node.args.args, *node.args.kwonlyargs)} - {"self", "cache"} | set(extra))
        self.outputs = {part.id for stmt in node.body if isinstance(stmt, ast.Return)
                        for part in ast.walk(stmt) if isinstance(part, ast.Name)}

    def all(self):
        if self.node.name == "rmsnorm_forward":
            body, first = self.node.body, ast.parse("x = x - x.mean(-1, keepdims=True)").body[0]
            yield (lambda: body.insert(0, first), lambda: body.remove(first),
                   "a mean is taken off x first, as LayerNorm does and RMSNorm does not", 1, None)
        known = {arg.arg for arg in (*self.node.args.args, *self.node.args.kwonlyargs)}
        yield from self.block(self.node.body, known)

    def block(self, body, known):
        for i, stmt in enumerate(list(body)):
            if _is_contract(stmt) or isinstance(stmt, ast.Expr) or "cache" in (
                    getattr(getattr(stmt, "value", None), "id", ""), _targets(stmt)):
                continue
            made = _targets(stmt)
            where = f"in the step that gives {made[0]}" if made else "in what is returned"
            if isinstance(stmt, ast.For):
                where = f"in the loop over {made[0]}"
            elif isinstance(stmt, ast.If):
                where = f"in what `if {ast.unparse(stmt.test)}` asks"
            yield from ((*edit, None) for edit in self.statement(body, i, stmt, known, made))
            yield from self.throughout(body, i, stmt, where)
            for field_name, value in ast.iter_fields(stmt):
                if field_name in ("body", "orelse"):
                    continue
                if isinstance(stmt, ast.Assign) and field_name == "targets" and not isinstance(
                        stmt.targets[0], ast.Subscript):
                    continue
                yield from self.inside(stmt, field_name, value, where)
            if isinstance(stmt, ast.If | ast.For):
                if isinstance(stmt, ast.For):
                    known = known | {stmt.target.id} if isinstance(stmt.target, ast.Name) else known
                yield from self.block(stmt.body, set(known))
                yield from self.block(stmt.orelse, set(known))
            known = known | set(made)

    def statement(self, body, i, stmt, known, made):
        name = made[0] if made else ""
        again = isinstance(stmt, ast.AugAssign) or (isinstance(stmt, ast.Assign) and made and set(made) <= known)
        names = sorted({part.id for part in ast.walk(stmt) if isinstance(part, ast.Name) and part.id not in SKIPPED
                        and isinstance(part.ctx, ast.Load)}) if isinstance(stmt, ast.Assign | ast.AugAssign) else []
        for one, other in combinations(names, 2):
            swapped = _exchanged(stmt, one, other)
            yield *_swap(body, i, swapped), f"{one} and {other} are exchanged, in the step that gives {name}", 5
        if isinstance(stmt, ast.Assign) and isinstance(stmt.targets[0], ast.Tuple) and len(stmt.targets[0].elts) == 1:
            call = stmt.value
            passed = ast.Assign(stmt.targets, ast.Tuple([call.args[0]], ast.Load()))
            yield *_swap(body, i, passed), (f"{ast.unparse(call.func).rpartition('.')[2]} is left out, and "
                                            f"{_short(call.args[0])} goes on as it is, to {name}"), 3
        if again and isinstance(stmt, ast.AugAssign) and isinstance(stmt.op, ast.Add):
            yield *_swap(body, i, ast.Pass()), f"the step is left out that adds {_short(stmt.value)} to {name}", 3
        elif again:
            through = stmt.value.func if isinstance(stmt.value, ast.Call) else None
            by = f" by {ast.unparse(through).rpartition('.')[2]}" if through is not None else ""
            yield *_swap(body, i, ast.Pass()), f"the step is left out that {_what(stmt)} {name}{by}", 3
        if again:
            for j in range(i + 1, min(i + 5, len(body))):
                if not isinstance(body[j], ast.Return):
                    yield *_move(body, i, j), f"the step that {_what(stmt)} {name} comes too late", 6
            for j in range(max(0, i - 4), i):
                yield *_move(body, i, j), f"the step that {_what(stmt)} {name} comes too early", 6
        targets = getattr(stmt, "targets", [None])[0]
        for k, target in enumerate(targets.elts if isinstance(targets, ast.Tuple) else ()):
            if isinstance(target, ast.Name) and target.id in known:
                unused = [*targets.elts[:k], ast.Name("_", ast.Store()), *targets.elts[k + 1:]]
                yield (*_set(targets, "elts", unused),
                       f"the {target.id} is not used that {ast.unparse(stmt.value).partition('(')[0]} gives", 3)
        if isinstance(stmt, ast.If) and not stmt.orelse:
            yield *_swap(body, i, ast.Pass()), f"what `if {ast.unparse(stmt.test)}` asks for is left out", 3
            always = ast.If(ast.Constant(True), stmt.body, [])
            yield *_swap(body, i, always), f"what `if {ast.unparse(stmt.test)}` asks for is always done", 4
        if isinstance(stmt, ast.AugAssign) and isinstance(stmt.op, ast.Add):
            target = copy.deepcopy(stmt.target)
            if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Name):         # an array of a dict
                whole = ast.Subscript(target.value, target.slice, ast.Load())
                target = ast.Subscript(whole, ast.Constant(...), ast.Store())
            yield (*_swap(body, i, ast.Assign([target], stmt.value)),
                   f"{name}: a share takes the place of the others where it must be added to them", 3)
            yield *_set(stmt, "op", ast.Sub()), f"a share of {name} has its sign flipped", 3
        if isinstance(stmt, ast.AugAssign) and isinstance(stmt.op, ast.Sub):
            yield *_set(stmt, "op", ast.Add()), f"the sign is flipped in the step that changes {name}", 2
        if isinstance(stmt, ast.For) and isinstance(stmt.iter, ast.Call) and ast.unparse(stmt.iter.func) == "range":
            for order, words in _ranges(stmt.iter):
                yield *_set(stmt, "iter", order), f"{words} (the loop over {ast.unparse(stmt.target)})", 2

    def throughout(self, body, i, stmt, where):
        """One name for another wherever it stands in a step: another tensor's cache, whole."""
        if not isinstance(stmt, ast.Assign | ast.AugAssign):
            return
        used = [part.id for part in ast.walk(stmt) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)]
        for old in sorted({name for name in used if used.count(name) > 1} - SKIPPED):
            for new in self.names:
                if new != old:
                    text = f"{new} stands where {old} belongs, all through, {where}"
                    yield *_swap(body, i, _renamed(stmt, {old: new})), text, 5, (old, new)

    def inside(self, parent, field_name, value, where):
        if isinstance(value, list):
            for i, part in enumerate(value):
                if isinstance(part, ast.AST):
                    yield from self.expression(_Slot(value, i), part, where, parent)
        elif isinstance(value, ast.AST):
            yield from self.expression(_Slot(parent, field_name), value, where, parent)

    def expression(self, slot, node, where, parent):
        for new, text, rank in self.replacements(node, where, parent):
            renamed = (node.id, new.id) if isinstance(node, ast.Name) and isinstance(new, ast.Name) else None
            yield slot.putter(new), slot.putter(node), text, rank, renamed
        if isinstance(node, ast.expr | ast.keyword | ast.Slice) and not _is_number(node):
            for field_name, value in ast.iter_fields(node):
                if field_name not in ("ctx", "op", "ops"):
                    yield from self.inside(node, field_name, value, where)

    def replacements(self, node, where, parent):
        """(another expression, what is then wrong, rank) for one expression."""
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in SKIPPED:
            for name in self.names:
                if name != node.id:
                    yield ast.Name(name, ast.Load()), f"{name} stands where {node.id} belongs, {where}", 5
            for step in (1, -1) if node.id in INDICES else ():
                yield ast.BinOp(node, ast.Add(), _number(step)), f"{node.id} is shifted by {step}, {where}", 4
        elif isinstance(node, ast.Attribute) and node.attr == "T":
            yield node.value, f"{_short(node.value)} is not transposed where it must be, {where}", 2
            if isinstance(node.value, ast.Call) and getattr(node.value.func, "attr", "") == "reshape":
                call = copy.deepcopy(node.value)
                call.args = call.args[::-1]
                yield call, (f"{_short(node.value.func.value)} is reshaped where it must be transposed, {where}"), 2
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in ("buffer", "matrices"):
            for attr in {"buffer", "matrices"} - {node.attr}:
                yield ast.Attribute(node.value, attr, ast.Load()), (
                    f"only the matrices count {where}" if attr == "matrices" else
                    f"vectors are changed, too, where only matrices must be, {where}"), 2
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in ("m", "v", "t", "eps"):
            for attr in {"m", "v", "eps"} - {node.attr}:
                yield ast.Attribute(node.value, attr, ast.Load()), (
                    f"{attr} stands where {node.attr} belongs, {where}"), 5
        elif _is_number(node) or (isinstance(node, ast.Constant) and type(node.value) in (int, float)):
            yield from self.constants(node, where, parent)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            yield node.operand, f"a minus is missing {where}: the sign is flipped", 2
        elif isinstance(node, ast.Compare) and len(node.ops) == 1:
            yield from self.comparisons(node, where)
        elif isinstance(node, ast.BinOp):
            yield from self.arithmetic(node, where)
        elif isinstance(node, ast.Call):
            yield from self.calls(node, where)
        elif isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Load) and not isinstance(parent, ast.Subscript):
            for i, j in combinations(range(len(node.elts)), 2):
                yield ast.Tuple(_swapped(node.elts, i, j), ast.Load()), (
                    f"{_short(node.elts[i])} and {_short(node.elts[j])} are swapped, {where}: their order is wrong"), 4
        elif isinstance(node, ast.IfExp):
            yield node.body, f"`if {ast.unparse(node.test)}` is not asked {where}", 4
            yield node.orelse, f"the case `{ast.unparse(node.test)}` is missing {where}", 4
        elif isinstance(node, ast.BoolOp):
            for part in node.values:
                rest = [ast.unparse(other) for other in node.values if other is not part]
                yield part, f"{' and '.join(rest)} is not asked {where}", 4
        elif isinstance(node, ast.Slice):
            yield from self.slices(node, where)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and not isinstance(
                node.slice, ast.Tuple):
            if isinstance(node.slice, ast.Name):
                for step, words in ((1, "next"), (-1, "previous")):
                    moved = ast.BinOp(node.slice, ast.Add(), _number(step))
                    yield ast.Subscript(node.value, moved, ast.Load()), (
                        f"the {words} entry stands where {_short(node)} belongs, {where}"), 4
                for last in (-1, -2):                    # the states have one entry more than there are blocks
                    turned = ast.BinOp(_number(last), ast.Sub(), node.slice)
                    yield ast.Subscript(node.value, turned, ast.Load()), (
                        f"the order of {_short(node.value)} is turned round, {where}"), 5
            if isinstance(node.value, ast.Name):
                yield node.value, f"all of {node.value.id} is taken where a part belongs, {where}", 6

    def constants(self, node, where, parent):
        value = node.value if isinstance(node, ast.Constant) else -node.operand.value
        call = isinstance(parent, ast.Call) and getattr(parent.func, "attr", "") in ("sum", "mean", "max", "argmax")
        if call or (isinstance(parent, ast.keyword) and parent.arg == "axis"):
            for axis in AXES:
                if axis != value:
                    yield _number(axis), (
                        f"a sum, mean or maximum runs over axis {axis} where axis {value} belongs, {where}"), 3
            return
        if isinstance(parent, ast.Slice) or value in (0, 1):
            for other in (value + 1, value - 1):
                yield _number(other), f"{other} stands where {value} belongs (off by one), {where}", 5
        else:
            for other in {1, 2, 0.5, 0, -1, value + 1, value - 1} - {value}:
                yield _number(other), f"{other} stands where {value} belongs, {where}", 5

    def comparisons(self, node, where):
        off = {ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Lt: ast.LtE, ast.LtE: ast.Lt}
        signs = {ast.Gt: ">", ast.GtE: ">=", ast.Lt: "<", ast.LtE: "<=", ast.Eq: "==", ast.NotEq: "!="}
        turned = {ast.Gt: ast.Lt, ast.Lt: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
        left, (right,), (op,) = node.left, node.comparators, node.ops
        for kinds, words in ((off, "off by one"), (turned, "the wrong way round")):
            if new := kinds.get(type(op)):               # an index off by one may give the same, and is more frequent
                yield ast.Compare(left, [new()], [right]), (
                    f"{signs[new]} stands where {signs[type(op)]} belongs ({words}), {where}"), (
                        6 if isinstance(op, ast.Eq) else 2)
        for step, words in ((1, "one too late"), (-1, "one too early")):
            moved = ast.BinOp(right, ast.Add(), _number(step))
            yield ast.Compare(left, [op], [moved]), f"the bound is {words} (off by one), {where}", 4

    def arithmetic(self, node, where):
        if isinstance(node.op, ast.Add | ast.Sub):
            if isinstance(node.op, ast.Add) and ast.unparse(getattr(node.left, "func", node)) == "np.sqrt":
                under = ast.Call(node.left.func, [ast.BinOp(node.left.args[0], ast.Add(), node.right)], [])
                yield under, f"{_short(node.right)} stands under the root where it belongs behind it, {where}", 2
            flip = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
            yield ast.BinOp(node.left, flip, node.right), (
                f"the sign of {_short(node.right)} is flipped, {where}"), 2
            yield ast.BinOp(node.right, node.op, node.left), (
                f"a difference is taken the other way round, {where}: the sign is flipped"), 4
            yield node.left, f"the term {_short(node.right)} is left out, {where}", 2
            last = node.right if isinstance(node.op, ast.Add) else ast.UnaryOp(ast.USub(), node.right)
            yield last, f"the term {_short(node.left)} is left out, {where}", 2
            yield node.right, f"the term {_short(node.left)} is left out and the sign is flipped, {where}", 5
            if isinstance(node.left, ast.BinOp) and isinstance(node.left.op, ast.Add):      # a + b + c, without b
                inner = node.left
                yield ast.BinOp(inner.left, node.op, node.right), (
                    f"the term {_short(inner.right)} is left out, {where}"), 2
        elif isinstance(node.op, ast.Mult | ast.Div):
            root = node.right
            if isinstance(root, ast.Call) and ast.unparse(root.func) == "np.sqrt" and isinstance(
                    root.args[0], ast.BinOp) and isinstance(root.args[0].op, ast.Add):
                total = root.args[0]
                whole = ast.BinOp(node.left, node.op, ast.Call(root.func, [total.left], []))
                yield ast.BinOp(whole, ast.Add(), total.right), (
                    f"{_short(total.right)} is added at the end where it belongs under the root, {where}"), 3
            factors = list(_factors(node))
            for n in (1, 2):
                for left_out in combinations(range(len(factors)), n):
                    rest = [f for i, f in enumerate(factors) if i not in left_out]
                    gone = [factors[i] for i in left_out]
                    if rest:
                        yield _product(rest), f"{_missing(gone)} missing, {where}", 1 + n
            for i, (sign, factor) in enumerate(factors):
                twice = [*factors, (sign, factor)]
                yield _product(twice), f"the factor {_factor_text(sign, factor)} is there twice, {where}", 4
                turned = [*factors[:i], (-sign, factor), *factors[i + 1:]]
                words = "divided by where it must be a factor" if sign > 0 else "a factor where it must be divided by"
                yield _product(turned), f"{_short(factor)} is {words}, {where}", 4
        elif isinstance(node.op, ast.MatMult):
            for side, other in (("left", node.right), ("right", node.left)):
                part = getattr(node, side)
                if not (isinstance(part, ast.Attribute) and part.attr == "T"):
                    turned = ast.Attribute(part, "T", ast.Load())
                    pair = (turned, other) if side == "left" else (other, turned)
                    yield ast.BinOp(pair[0], ast.MatMult(), pair[1]), (
                        f"{_short(part)} is transposed where it must not be, {where}"), 3
                yield other, f"the product with {_short(part)} is left out, {where}", 3
        elif isinstance(node.op, ast.Pow):
            words = {2: "the square", 0.5: "the root", -2: "the power"}
            exponent = getattr(node.right, "value", None)
            yield node.left, f"{words.get(exponent, 'the power')} of {_short(node.left)} is left out, {where}", 2
            if exponent == 2:
                size = ast.Call(ast.Name("abs", ast.Load()), [node.left], [])
                yield size, f"the size of {_short(node.left)} stands where its square belongs, {where}", 3
        elif isinstance(node.op, ast.BitAnd):
            for part, other in ((node.left, node.right), (node.right, node.left)):
                yield part, f"{_short(other)} is not asked, {where}", 3

    def calls(self, node, where):
        function = node.func
        method = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        for one, other in (("sum", "mean"), ("mean", "sum")):
            if method == one and isinstance(function, ast.Attribute):
                yield (ast.Call(ast.Attribute(function.value, other, ast.Load()), node.args, node.keywords),
                       f"a {other} stands where a {one} belongs, {where}", 2)
                axis = next((k for k in node.keywords if k.arg == "keepdims"), None)
                if axis:
                    yield (ast.Call(function, [], node.keywords),
                           f"the {one} runs over all axes where axis {_short(node.args[0]) if node.args else ''} "
                           f"belongs, {where}", 3)
                if not node.args and other == "mean":
                    size = ast.Attribute(function.value, "size", ast.Load())
                    yield size, f"the number of {_short(function.value)} stands where their sum belongs, {where}", 3
        if method == "sqrt" and isinstance(node.args[0], ast.BinOp) and isinstance(node.args[0].op, ast.Add):
            total = node.args[0]
            behind = ast.BinOp(ast.Call(function, [total.left], []), ast.Add(), total.right)
            yield behind, f"{_short(total.right)} stands behind the root where it belongs under it, {where}", 2
        if method in UNARY and len(node.args) == 1:
            yield node.args[0], f"{UNARY[method]} is left out, {where}", 2
        if method == "max" and not node.args and isinstance(function, ast.Attribute):
            for other, word in (("mean", "the mean"), ("min", "the smallest")):
                yield (ast.Call(ast.Attribute(function.value, other, ast.Load()), [], []),
                       f"{word} stands where the largest belongs, {where}", 3)
        if method == "abs":
            yield ast.BinOp(node.args[0], ast.Pow(), _number(2)), f"a square stands where abs belongs, {where}", 3
        if method == "argmax":
            yield (ast.Call(ast.Attribute(function.value, "argmin", ast.Load()), node.args, node.keywords),
                   f"the smallest stands where the largest belongs, {where}", 3)
        if len(node.args) > 1 and method not in ("einsum", "reshape"):
            for i, j in combinations(range(len(node.args)), 2):
                yield (ast.Call(function, _swapped(node.args, i, j), node.keywords),
                       f"{_short(node.args[i])} and {_short(node.args[j])} are swapped, {where}", 5)
        for i, keyword in enumerate(node.keywords):
            if keyword.arg not in (None, "keepdims", "axis"):
                yield (ast.Call(function, node.args, [*node.keywords[:i], *node.keywords[i + 1:]]),
                       f"{keyword.arg} is left out, {where}", 3)

    def slices(self, node, where):
        lower, upper, step = node.lower, node.upper, node.step
        if step is None and (lower is None) != (upper is None):
            bound = lower or upper
            minus = ast.UnaryOp(ast.USub(), bound)
            first, last = ("first", "last") if upper else ("last", "first")
            words = f"the {last} rows stand where the {first} belong, {where}"
            yield ast.Slice(minus, None), words if upper else f"the rows are cut from the wrong end, {where}", 4
            yield (ast.Slice(bound, None) if upper else ast.Slice(None, bound)), (
                f"the rows are cut on the wrong side of {_short(bound)}, {where}"), 4


class _Slot:
    """A place in a tree: a field of a node, or an entry of a list."""

    def __init__(self, holder, key):
        self.holder, self.key = holder, key

    def putter(self, node):
        def put():
            if isinstance(self.holder, list):
                self.holder[self.key] = node
            else:
                setattr(self.holder, self.key, node)
        return put


def _swap(body, i, new):
    old = body[i]
    return _Slot(body, i).putter(new), _Slot(body, i).putter(old)


def _set(node, name, new):
    return _Slot(node, name).putter(new), _Slot(node, name).putter(getattr(node, name))


def _move(body, i, j):
    before = list(body)

    def put():
        body.insert(j, body.pop(i))

    def back():
        body[:] = before

    return put, back


def _is_contract(stmt):
    return isinstance(stmt, ast.If) and len(stmt.body) == 1 and isinstance(stmt.body[0], ast.Raise)


def _targets(stmt):
    """The names that a statement gives or changes."""
    targets = stmt.targets if isinstance(stmt, ast.Assign) else [stmt.target] if isinstance(
        stmt, ast.AugAssign | ast.For) else []
    found = []
    for target in targets:
        for part in target.elts if isinstance(target, ast.Tuple) else [target]:
            while isinstance(part, ast.Subscript):
                part = part.value
            found.append(ast.unparse(part).removeprefix("self.").removesuffix(".buffer").removesuffix(".matrices"))
    return found


def _exchanged(stmt, one, other):
    """A statement in which two names have changed places."""
    return _renamed(stmt, {one: other, other: one})


def _renamed(stmt, names):
    """A statement that reads other names, {old: new}."""
    stmt = copy.deepcopy(stmt)
    for part in ast.walk(stmt):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
            part.id = names.get(part.id, part.id)
    return stmt


def _what(stmt):
    return "adds to" if isinstance(stmt, ast.AugAssign) and isinstance(stmt.op, ast.Add) else "changes"


def _short(node):
    """An expression as it may stand in a text: as it is where it is short, else the names in it."""
    text = ast.unparse(node).replace("self.", "").replace("[..., None]", "")
    text = re.sub(r"np\.(\w+)", r"\1", text)
    if len(text) <= SHOWN:
        return text
    names = [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and part.id not in SKIPPED]
    return f"with {', '.join(dict.fromkeys(names))}" if names else "in the middle"


def _factors(node, sign=1):
    """(1 or -1, factor) for each factor of a product; -1 where it is divided by."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
        yield from _factors(node.left, sign)
        yield from _factors(node.right, sign if isinstance(node.op, ast.Mult) else -sign)
    else:
        yield sign, node


def _factor_text(sign, node):
    text = _short(node)
    return text if sign > 0 else f"1/{text}" if re.fullmatch(r"\w+", text) else f"1/({text})"


def _missing(factors):
    """What factors are called that are left out: the slope of a gate or of tanh is one thing."""
    texts = [_factor_text(*factor) for factor in factors]
    gates = [text for text in texts if f"1 - {text}" in texts]
    if gates:
        return f"sigmoid's slope {gates[0]} (1 - {gates[0]}) is"
    if len(texts) == 1 and (root := re.fullmatch(r"1 - (\w+) \*\* 2", texts[0])):
        return f"tanh's slope 1 - {root[1]}^2 is"
    return f"the factor{'s' * (len(texts) > 1)} {' and '.join(texts)} {'are' if len(texts) > 1 else 'is'}"


def _product(factors):
    up = [node for sign, node in factors if sign > 0] or [_number(1)]
    down = [node for sign, node in factors if sign < 0]
    node = up[0]
    for factor in up[1:]:
        node = ast.BinOp(node, ast.Mult(), factor)
    for factor in down:
        node = ast.BinOp(node, ast.Div(), factor)
    return node


def _swapped(parts, i, j):
    parts = list(parts)
    parts[i], parts[j] = parts[j], parts[i]
    return parts


def _is_number(node):
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)


def _number(value):
    return ast.UnaryOp(ast.USub(), ast.Constant(-value)) if value < 0 else ast.Constant(value)


def _ranges(call):
    """Other orders of a loop over range(...)."""
    if len(call.args) == 3:                              # range(n - 1, -1, -1)
        count = call.args[0].left
        yield ast.Call(call.func, [count], []), (
            "the order of the blocks or segments is the forward's, and must be turned round")
        skipped = ast.Call(call.func, [call.args[0], ast.Constant(0), call.args[2]], [])
        yield skipped, "the first block or segment is left out"
        late = ast.BinOp(count, ast.Sub(), ast.Constant(2))
        yield ast.Call(call.func, [late, *call.args[1:]], []), "the last block or segment is left out"
