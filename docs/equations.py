"""Equations as the docstrings write them, in plain text, set as mathematics: MathML, which browsers draw themselves.

    y = g * n,   n = x * r,   r = 1 / sqrt(mean(x^2) + eps)

Nothing is invented: a symbol is set for each symbol that stands in the text, in the same order. An equation is found
by its " = "; it reaches as far to both sides as the text still reads as mathematics, and the rest stays text.
"""

import re
from contextlib import suppress
from html import escape

TOKEN = re.compile(r"\s{0,2}(?:(?P<number>\d+(?:\.\d+)?(?:e-?\d+)?)"                # a wider gap ends an equation
                   r"|(?P<function>[A-Za-z]\w*[^\W_](?:-[A-Za-z]{3,})*)(?=\()"
                   r"|(?P<name>[^\W\d_]+\d*(?:\.[A-Za-z]\w*)?)"
                   r"|(?P<sign>->|>=|<=|//|\.\.\.|[-+*/=()\[\],^|'·;²³]))")
SUBSCRIPT = re.compile(r"_(\([^()]+\)|[^\W_]+(?:\+\d+)?)")
CUT = re.compile(r"\s{0,2}[-+*/^] ?[\w(]|[.(\[][\w(]|\s?\.\.\.")  # what would belong to an equation, too
PARTS = re.compile(r"(d?)([A-Zacgbnxyz])(q|k|v|o|f|mem|out|in|forget|gate|up|down|qkv|gu|query|next)$")
GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "eps": "ε", "theta": "θ", "eta": "η", "sigma": "σ",
         "phi": "φ", "lambda": "λ", "pi": "π"}
FUNCTIONS = {"sum", "mean", "max", "min", "log", "exp", "sqrt", "sin", "cos", "tanh", "sigmoid", "softmax", "silu",
             "rmsnorm", "rope", "RoPE", "attend", "elu", "clip", "norm"}
WORDS = {"eps", "base", "total", "loss", "logits", "target", "onehot", "address", "past", "zin", "zforget", "start",
         "step", "gin", "gout", "gf", "gforget", "act", "lr", "scale", "bank", "rate", "if", "else"}
COMMA = ("sign", ",")
CLOSING = {"(": ")", "[": "]"}
SHOWN = {"*": "·", "'": "′", "->": "→", ">=": "≥", "<=": "≤", "-": "−", "...": "…", "//": "//"}


class Stop(Exception):
    """The text is no mathematics from here on."""


# ------------------------------------------------------------------------------------------------------------- reading


def tokens(text):
    """[(kind, text, start, end)]; ends where a character is none that an equation has."""
    found, at = [], 0
    while match := TOKEN.match(text, at):
        kind, at = match.lastgroup, match.end()
        found.append((kind, match[kind], match.start(kind), at))
        if kind in ("name", "number") and (sub := SUBSCRIPT.match(text, at)):
            found.append(("subscript", sub[1], sub.start(), sub.end()))
            at = sub.end()
    return found


def is_symbol(name, known):
    """Whether a name reads as mathematics outside brackets; a word of prose does not."""
    plain = name[1:] if name.startswith("d") and len(name) > 1 else name
    return any(len(one) == 1 or "." in one or one in known or one in FUNCTIONS or one in WORDS or one in GREEK
               or PARTS.match(one) or re.fullmatch(r"[A-Za-z]\d+", one) for one in (name, plain))


class Reader:
    """Reads an expression from tokens, as far as it goes."""

    def __init__(self, found, known, lists):
        self.found, self.at, self.known, self.lists, self.depth = found, 0, known, lists, 0

    def end(self):
        """Where the last token that was taken ends."""
        return self.found[self.at - 1][3]

    def peek(self, *texts):
        return self.at < len(self.found) and self.found[self.at][0] == "sign" and self.found[self.at][1] in texts

    def take(self):
        self.at += 1
        return self.found[self.at - 1]

    def expression(self):
        """term (sign term)*: a list of nodes."""
        nodes = []
        if self.peek("-", "+"):
            nodes.append(("sign", self.take()[1]))
        nodes += self.term()
        while self.at < len(self.found):
            before = self.at
            sign = self.take()
            joins = ("+", "-", "*", "/", "//", "·", "%") + ((",", "=", "<", ">", ">=", "<=", ";", "->", "|")
                                                            if self.depth else ("," if self.lists else "",))
            try:
                if sign[0] != "sign" or sign[1] not in joins:
                    raise Stop
                more = [("sign", self.take()[1])] if self.peek("-", "...") else []
                if not (more and more[0][1] == "..."):
                    more += self.term()
                nodes += [("sign", sign[1]), *more]
            except Stop:
                self.at = before
                break
        return nodes

    def term(self):
        """Atoms side by side, which is a product."""
        nodes = [self.atom()]
        while True:
            before = self.at
            try:
                atom = self.atom()
                if atom[0] == "group" and COMMA in atom[3]:                  # a shape: "y (B, T, D)"
                    raise Stop
                nodes.append(atom)
            except Stop:
                self.at = before
                return [("product", nodes)] if len(nodes) > 1 else nodes

    def atom(self):
        if self.at == len(self.found):
            raise Stop
        kind, text, *_ = self.take()
        if kind == "number":
            node = (kind, text)
        elif kind in ("name", "function"):
            if kind == "name" and not self.depth and not is_symbol(text, self.known):
                raise Stop
            node = ("name", text)
        elif text in CLOSING or text == "|" and not self.depth:
            node = self.group(text)
        else:
            raise Stop
        return self.scripts(node)

    def group(self, opening):
        closing = CLOSING.get(opening, opening)
        self.depth += opening != "|"
        nodes = [] if self.peek(closing) else self.expression()
        self.depth -= opening != "|"
        if not self.peek(closing):
            raise Stop
        self.take()
        return ("group", opening, closing, nodes)

    def scripts(self, node):
        while self.at < len(self.found):
            kind, text, start, _ = self.found[self.at]
            tight = start == self.found[self.at - 1][3]              # no blank before it
            if kind == "subscript":
                self.take()
                node = ("sub", node, text)
            elif text in ("'", "²", "³") and tight:
                self.take()
                node = ("prime", node) if text == "'" else ("sup", node, [("number", {"²": "2", "³": "3"}[text])])
            elif text == "^" and tight:
                self.take()
                power = [("sign", self.take()[1])] if self.peek("-") else []
                node = ("sup", node, power + [self.atom()])
            elif text in CLOSING and tight and node[0] in ("name", "sub", "prime", "call"):
                self.take()
                node = ("call", node, self.group(text))
            else:
                break
        return node


def equations(text, known=()):
    """The equations of a text: [(start, end, nodes)], in order and apart from one another."""
    found, free = [], 0
    for match in re.finditer(r"(?<=\S)\s+=\s(?=\S)", text):
        if match.start() < free:
            continue
        for lists in (True, False):                      # "q, k = n Wq, n Wk"; but "given dy, f = sum(dy)" is f's alone
            left = _left(text[free:match.start()], known, lists)
            right = left and _right(text[match.end():], known, lists and COMMA in left[1])
            if not (right and COMMA in left[1] and COMMA not in right[1]):
                break
        if not (left and right):
            continue
        end = match.end() + right[0]
        bare = right[1][-1][0] == "name" and right[1][-1][1] in FUNCTIONS            # "sum over x": cut short
        if not (CUT.match(text, end) or bare and re.match(r"\s\w", text[end:])):
            found.append((free + left[0], end, [*left[1], ("sign", "="), *right[1]]))
        free = end
    return found


def _left(text, known, lists):
    """(start, nodes) of the longest left side with which a text ends; None where it ends with words."""
    for start in _starts(text):
        reader = Reader(tokens(text[start:]), known, lists)
        with suppress(Stop):
            nodes = reader.expression()
            if reader.end() == len(text) - start:
                return start, nodes
    return None


def _right(text, known, lists):
    """(end, nodes) of the right side with which a text begins, a = b = c included; None where it begins with words."""
    reader = Reader(tokens(text), known, lists)
    try:
        nodes = reader.expression()
    except Stop:
        return None
    end = reader.end()
    with suppress(Stop):
        while reader.peek("="):
            nodes += [reader.take()[:2], *reader.expression()]
            end = reader.end()
    return end, nodes


def _starts(before):
    """Where a left side may begin, the longest first: after a blank, but not across a wide gap, ": " or ". "."""
    low = max([0, *(m.end() for m in re.finditer(r"\s{3,}|[:;.] ", before))])
    return [low, *(m.end() for m in re.finditer(r"\s+", before) if m.end() > low)]


# ------------------------------------------------------------------------------------------------------------- setting


def plain(nodes):
    """The symbols of an equation in a row, as they stood in the text without its blanks."""
    def one(node):
        kind = node[0]
        if kind == "product":
            return plain(node[1])
        if kind == "group":
            return node[1] + plain(node[3]) + node[2]
        if kind == "call":
            return one(node[1]) + one(node[2])
        if kind == "sub":
            return one(node[1]) + "_" + node[2]
        if kind == "prime":
            return one(node[1]) + "'"
        if kind == "sup":
            return one(node[1]) + "^" + plain(node[2])
        return node[1]
    return "".join(map(one, nodes))


def mathml(nodes, display=False):
    """An equation as a MathML element; in a line of text fractions stay on the line."""
    return ('<math display="block">' if display else "<math>") + _row(nodes, display) + "</math>"


def _row(nodes, display):
    done, at = [], 0
    while at < len(nodes):
        node = nodes[at]
        if display and _fraction(nodes, at):
            done.append(f"<mfrac>{_bare(node, display)}{_bare(nodes[at + 2], display)}</mfrac>")
            at += 3
        else:
            done.append(_node(node, display))
            at += 1
    return f"<mrow>{''.join(done)}</mrow>"


def _fraction(nodes, at):
    """Whether a fraction begins here: one factor over one factor, and no more division behind it."""
    return (at + 2 < len(nodes) and nodes[at][0] != "sign" and nodes[at + 1] == ("sign", "/")
            and nodes[at + 2][0] not in ("sign", "product") and (at == 0 or nodes[at - 1] != ("sign", "/"))
            and (at + 3 == len(nodes) or nodes[at + 3] != ("sign", "/")))


def _bare(node, display):
    """Over or under a bar brackets are not needed."""
    return _row(node[3], display) if node[0] == "group" and node[1] == "(" else _node(node, display)


def _node(node, display):
    kind = node[0]
    if kind == "number":
        return f"<mn>{node[1]}</mn>"
    if kind == "sign":
        text = escape(SHOWN.get(node[1], node[1]))
        return f'<mo separator="true">{text}</mo>' if text == "," else f"<mo>{text}</mo>"
    if kind == "name":
        return _name(node[1])
    if kind == "product":
        return "<mrow>" + '<mspace width=".17em"></mspace>'.join(_node(one, display) for one in node[1]) + "</mrow>"
    if kind == "group":
        return (f"<mrow><mo>{escape(node[1])}</mo>{_row(node[3], False if node[1] == '[' else display)}"
                f"<mo>{escape(node[2])}</mo></mrow>")
    if kind == "call":
        if node[1] == ("name", "sqrt"):
            return f"<msqrt>{_row(node[2][3], display)}</msqrt>"
        return f"<mrow>{_node(node[1], display)}{_node(node[2], display)}</mrow>"
    if kind == "sub":
        return f"<msub>{_node(node[1], display)}{_subscript(node[2].strip('()'))}</msub>"
    if kind == "prime":
        return f'<mrow>{_node(node[1], display)}<mo lspace="0" rspace="0">′</mo></mrow>'       # it is high already
    power = node[2]
    inner = _bare(power[0], False) if len(power) == 1 else _row(power, False)
    return f"<msup>{_node(node[1], display)}{inner}</msup>"


def _subscript(text):
    """Words stand upright; letters are indices, one by one."""
    if text.isalpha() and (len(text) > 2 or text in ("in", "up")):
        return f"<mi>{text}</mi>"
    return "<mrow>" + "".join(f"<mi>{c}</mi>" if c.isalpha() else f"<mn>{c}</mn>" if c.isdigit() else
                              f"<mo>{SHOWN.get(c, c)}</mo>" for c in text if c != " ") + "</mrow>"


def _name(name):
    if name in GREEK:
        return f"<mi>{GREEK[name]}</mi>"
    if match := PARTS.match(name):                       # Wq, Emem, dWout: a letter and what it belongs to
        d, letter, part = match.groups()
        return (f"<mrow>{'<mi>d</mi>' if d else ''}<msub><mi>{letter}</mi><mi>{part}</mi></msub></mrow>")
    if name.startswith("d") and (len(name) == 2 or name[1:] in WORDS or name[1:] in GREEK):      # a gradient
        return f"<mrow><mi>d</mi>{_name(name[1:])}</mrow>"
    if match := re.fullmatch(r"([A-Za-z])(\d+)", name):  # x1
        return f"<msub><mi>{match[1]}</mi><mn>{match[2]}</mn></msub>"
    return f"<mtext>{escape(name)}</mtext>" if "." in name or "_" in name else f"<mi>{escape(name)}</mi>"


# --------------------------------------------------------------------------------------------------- lines of equations


def names(text):
    """The names that a text defines with an equation of its own: they are symbols in its other equations, too."""
    return set(re.findall(r"(?:^|[\s,])([A-Za-z]+)'?\s+= ", text))


def line_html(line, known=(), display=True):
    """A line that is made of equations, with what is said beside them."""
    done, at = [], 0
    for start, end, nodes in equations(line, known):
        done += [_said(line[at:start]), f'<span class="equation">{mathml(nodes, display)}</span>']
        at = end
    done.append(_said(line[at:]))
    return "".join(done)


def _said(text):
    """What stands between equations. A comma or full stop between two needs no more than the gap of the style."""
    text = re.sub(r"\s{2,}", "   ", text.strip(" ,")).strip()
    kind = "said number" if re.fullmatch(r"\(\d+\)|.*equations? \d.*", text) else "said"
    return f'<span class="{kind}">{escape(text)}</span>' if text.strip(".;") else ""
