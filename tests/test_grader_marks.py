"""What a mistake costs, how the feedback finds it by making it, and the variants that no lesson solves."""

import inspect
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tinylm2 import gradcheck, layers, ops
from tinylm2.flat import Flat
from tinylm2.memories import lm2
from tutorials.assignments import (
    changes,
    checks,
    context,
    feedback,
    handout,
    plain,
    trying,
    variants,
    wrong_solutions,
)
from tutorials.assignments.__main__ import main
from tutorials.assignments.grader import ASSIGNMENTS, grade
from tutorials.assignments.wrong_solutions import WRONG_SOLUTIONS, WrongSolution


def graded(folder, assignment, function, edits=(), *, seed=0, **how):
    """The report on plain.py's solution with some edits; only the unit of the function."""
    return WrongSolution(assignment, "", function, "", "", list(edits)).grade(folder, seed=seed, **how)


def points(report):
    return {name: (f["points"], f["out_of"]) for name, f in report.as_json()["functions"].items()}


# --------------------------------------------------------------------------------------------------------------- marks


@pytest.mark.parametrize("file", ["plain.py", "by_hand.py"])
@pytest.mark.parametrize("name", list(ASSIGNMENTS))
def test_the_plain_solution_has_all_points(name, file, tmp_path):
    path = tmp_path / f"my_{name}.py"
    path.write_text(WrongSolution(name, "", ASSIGNMENTS[name].functions[0].partition(".")[2], "", "", [],
                                  file=file).text())
    report = grade(ASSIGNMENTS[name], path, seed=3)
    assert report.points == report.out_of, str(report)


def test_a_wrong_gradient_leaves_the_points_of_the_right_one(tmp_path):
    report = graded(tmp_path, "a1", "linear_backward", [("dx = dy @ W.T", "dx = -dy @ W.T")])
    got, of = points(report)["linear_backward"]
    assert 0.7 * of <= got < of                          # dW is right, and a sign costs half of dx
    report = graded(tmp_path, "a1", "linear_backward", [("dx = dy @ W.T", "dx = dy @ (W.T + 1)")])
    assert points(report)["linear_backward"][0] < got


def test_what_is_handed_on_as_it_came_earns_nothing(tmp_path):
    """dx and da of the output gate are dy; whoever has only them has derived nothing."""
    zero = [("return dy, dy, dEmem, dWout, dbout", "return dy, dy, 0 * dEmem, 0 * dWout, 0 * dbout")]
    assert points(graded(tmp_path, "a4", "output_gate_backward", zero))["output_gate_backward"][0] == 0


@pytest.mark.parametrize(("assignment", "mistake"), [
    ("a2", "a mean taken off, as LayerNorm does"), ("a2", "logarithm of base two"), ("a3", "scores not scaled"),
    ("a4", "the bias taken off")])
def test_a_slip_in_a_forward_leaves_most_points_of_its_backward(assignment, mistake, tmp_path):
    wrong = next(w for w in WRONG_SOLUTIONS if (w.assignment, w.mistake) == (assignment, mistake))
    report = wrong.grade(tmp_path, seed=0)
    got, of = points(report)[wrong.function.replace("forward", "backward")]
    assert 0.55 * of <= got < of, str(report)


def test_a_forward_that_is_simpler_earns_nothing_for_its_backward(tmp_path):
    """y = g x has a right and easy backward: it was not asked for."""
    edits = [("    y = g * n\n", "    y = g * x\n"), ("return y, (n, r, g)", "return y, (x, r, g)"),
             ("dx = r * (dn - n * mean)", "dx = dn")]
    report = graded(tmp_path, "a2", "rmsnorm_forward", edits)
    assert points(report)["rmsnorm_backward"][0] <= 0.4 * points(report)["rmsnorm_backward"][1], str(report)
    assert "for that forward, too, dx is wrong" in str(report)             # dg alone is what its slope would be


def test_every_wrong_test_loses_a_point():
    test = ASSIGNMENTS["a1"].units[0].tests[0]
    from tutorials.assignments.grader import Result
    assert Result(test, ("wrong",), 1.0).points == test.points - 1
    assert Result(test, ("wrong",)).points == 0
    assert Result(test, ()).points == test.points


# -------------------------------------------------------------------------------------------------------------- trying


def test_a_mistake_is_found_by_making_it(tmp_path):
    report = graded(tmp_path, "a2", "rmsnorm_backward", [("mean = (dn * n).mean", "mean = (dy * n).mean")])
    assert any("dx is what comes out where dy stands where dn belongs" in line for line in report.feedback())


def test_an_explanation_must_hold_on_every_draw():
    """Two changes that agree where an axis has two entries are told apart by a draw where it has three."""
    def draw(n):
        x = np.arange(1.0, n + 1)
        runs = [("the last", lambda: {"y": x[-1:]}), ("the second", lambda: {"y": x[1:2]})]
        return runs, {"y": x[1:2]}, {"y": x[:1]}

    assert trying.explain(draw(2)) == {"y": "the last"}
    assert trying.explain(draw(2), draw(3)) == {"y": "the second"}
    assert trying.explain(draw(3), draw(2)) == {"y": "the second"}
    assert trying.explain(*[([("nothing", dict)], {"y": np.ones(2)}, {"y": np.zeros(2)})] * 2) == {}


def test_a_change_that_spoils_what_is_right_explains_nothing():
    """The student's dW is right, so a mistake that would have harmed it was not made."""
    right = {"dx": np.ones(3), "dW": np.ones(2)}
    found = {"dx": 2 * np.ones(3), "dW": np.ones(2)}
    spoils = "both", lambda: {"dx": 2 * np.ones(3), "dW": np.zeros(2)}
    alone = "dx alone", lambda: {"dx": 2 * np.ones(3), "dW": np.ones(2)}
    assert trying.explain(([spoils], found, right)) == {}
    assert trying.explain(([spoils, alone], found, right)) == {"dx": "dx alone"}


def test_the_other_gates_cache_is_named_as_what_it_is(tmp_path):
    """Two entries of the cache swapped would give the same dWin, and another dWforget."""
    edit = [("dzin = dgin * gin * (1 - gin)", "dzin = dgin * gforget * (1 - gforget)")]
    said = str(graded(tmp_path, "a5", "memory_update_backward", edit))
    assert "gforget stands where gin belongs, all through, in the step that gives dzin" in said
    assert "swapped" not in said


def test_query_heads_in_another_order_are_found(tmp_path):
    edit = [("kk = np.repeat(k, H // G, axis=2)", "kk = np.tile(k, (1, 1, H // G, 1))"),
            ("vv = np.repeat(v, H // G, axis=2)", "vv = np.tile(v, (1, 1, H // G, 1))")]
    said = str(graded(tmp_path, "a3", "attend_forward", edit))
    assert "query head 1 asks key head 1; it must ask head 0" in said


def test_an_index_off_by_one_comes_before_a_turned_comparison():
    node = trying.ast.parse("def f(s, k):\n    if s % k == 0:\n        s = None\n    return s").body[0]
    texts = [edit[2] for edit in changes.of(node)]
    first = next(text for text in texts if "shifted by 1" in text or "!=" in text)
    assert "s is shifted by 1" in first


def test_changes_leave_the_lines_as_they_were():
    """Each edit is taken back: after all of them the functions compute what they did."""
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 3, 4)), rng.standard_normal(4)
    before = trying.with_names("rmsnorm_forward")(x, g)[0][0]
    texts = [text for text, _ in trying.changed("rmsnorm_forward")]
    assert len(texts) > 50
    top, _ = trying.edits("rmsnorm_forward")
    assert np.array_equal(trying.compiled(top, "rmsnorm_forward")(x, g)[0], before)


def test_a_change_cannot_write_into_what_the_next_one_gets():
    x = np.ones(3)
    trying.locked({"a": (x,)})
    with pytest.raises(ValueError, match="read-only"):
        x += 1


@pytest.mark.parametrize(("line", "text"), [
    ("a = x + y * z", "the sign of y * z is flipped"), ("a = x * y", "the factor y is missing"),
    ("a = x.sum(-1)", "a mean stands where a sum belongs"), ("a = x > y", ">= stands where > belongs"),
    ("a = g * (1 - g) * x", "sigmoid's slope g (1 - g) is missing"), ("a = x @ W.T", "W is not transposed"),
    ("a = x", "y stands where x belongs"), ("x += y", "the step is left out that adds y to x"),
    ("a = np.sqrt(x) + y", "y stands under the root"), ("a = b, x", "b and x are swapped")])
def test_each_kind_of_change_is_made_and_named(line, text):
    node = trying.ast.parse(f"def f(x, y, z, W, b, g):\n    {line}\n    return x").body[0]
    texts = [edit[2] for edit in changes.of(node)]
    assert any(text in one for one in texts), texts


def test_a_factor_has_a_name_where_two_draws_agree():
    n = np.ones(3)
    letters = {"V": 5, "the sum of the weights": 5.0}
    said = feedback.array("dz", 5 * n, n, feedback.How(letters, again={"dz": (4 * n, n)}, letters_again={
        "V": 7, "the sum of the weights": 4.0}))
    assert "factor 5 in every entry, which is the sum of the weights" in said
    assert feedback.names_of(1 / 3, {"F": 9, "S": 3})[0] == "1/S"           # plain names before roots
    assert feedback.names_of(15.0, {"B": 3, "T": 5}) == ["B T"]


def test_nothing_is_guessed_where_nothing_fits():
    rng = np.random.default_rng(0)
    a, n = rng.standard_normal((2, 40))
    assert "?" not in feedback.array("dx", n + 0.01 * a, n)
    assert "all 40 entries" in feedback.array("dx", n + 0.01 * a, n)


def test_a_claim_that_a_mistake_does_not_declare_misleads():
    class Report:
        def feedback(self, function=None):
            return ["f: dx is wrong: is a term dropped?"]

    honest, other = (WrongSolution("a1", "", "f", "dx", symptom, []) for symptom in ("term dropped", "sign"))
    assert not honest.misled(Report())
    assert other.misled(Report())
    assert wrong_solutions.CLAIMS.search("it points roughly the right way (cosine 1.00)")


# ------------------------------------------------------------------------------------------------------------ variants

EVERY = [variant for kinds in variants.CHOICES.values() for kind in kinds for variant in kind]
RULES = [variant for variant in EVERY if isinstance(variant, variants.Rule)]
ALL = [variant for variant in EVERY if variant not in RULES]
MODULES = {"memory_update": lm2, "write_attention": lm2, "output_gate": layers, "rmsnorm": ops, "cross_entropy": ops,
           "attend": ops}
SHAPES = {"rmsnorm": ((2, 3, 4), (4,)), "cross_entropy": ((2, 3, 5),),
          "attend": ((2, 3, 4, 2), (2, 5, 2, 2), (2, 5, 2, 2)),
          "output_gate": ((2, 3, 4), (2, 3, 4), (2, 3, 4), (4, 4), (4,)),
          "memory_update": ((2, 3, 4), (2, 3, 4), (4, 4), (4,), (4, 4), (4,)),
          "write_attention": ((2, 5, 2, 4), (2, 5, 2, 4), (6, 24), (8, 6))}
CONSTANTS = {"rmsnorm": {"eps": 0.01}, "attend": {"causal": True, "pad": np.array([4, 0])},
             "cross_entropy": {"targets": np.array([[0, 2, 4], [1, 1, 3]]),
                               "weights": np.array([[1.0, 0, 2], [1, 1, 3]])},
             "output_gate": {}, "memory_update": {}, "write_attention": {"heads": (2, 2), "slots": 3}}


@pytest.mark.parametrize("variant", ALL, ids=lambda variant: variant.about)
def test_what_a_variant_holds_for_right_is_the_slope_of_its_equation(variant):
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape) for shape in SHAPES[variant.name]]
    constants = CONSTANTS[variant.name]
    forward, backward = variant.pair()
    names = ", ".join(inspect.signature(getattr(MODULES[variant.name], f"{variant.name}_forward")).parameters)
    names = re.split(", (heads|eps|targets|causal)", names)[0]
    space = {"forward": forward}
    exec(f"def named({names}, **constants):\n    y, cache = forward({names}, **constants)\n    return y, cache", space)
    check = gradcheck.check_grads(space["named"], backward, *inputs, **constants)
    assert check.passed, str(check)
    dy = rng.standard_normal(forward(*inputs, **constants)[0].shape)
    gradients = backward(dy, (tuple(inputs), constants))
    for i, gradient in enumerate(gradients):
        move = rng.standard_normal(gradient.shape)
        assert np.isclose(variant.slope(i, move, inputs, constants, dy), (gradient * move).sum())


@pytest.mark.parametrize("variant", ALL, ids=lambda variant: variant.about)
def test_a_variant_is_not_the_librarys_equation(variant):
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape) for shape in SHAPES[variant.name]]
    right = getattr(MODULES[variant.name], f"{variant.name}_forward")(*inputs, **CONSTANTS[variant.name])[0]
    assert not np.allclose(variant.forward(*inputs, **CONSTANTS[variant.name]), right)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.about)
def test_the_check_of_a_handout_expects_the_first_step_of_another_rule(rule):
    """The numbers in the check are those of the rule, and the rule is not AdamW's."""
    expected = [[float(eval(number)) for number in re.search(r"\[(.*)\]", new)[1].split(",")]
                for _, new in rule.check[1:]]
    for decay, numbers in zip((0, 0.5), expected, strict=True):
        params = Flat({"W": (1, 2), "b": (1,)}, np, "float64", np.ones(3))
        grads = params.like(np.array([2.0, -0.5, 7.0]))
        rule.names()["AdamW"](params, eps=0, decay=decay).step(params, grads, 0.1)
        assert np.allclose(params.buffer, numbers)
    moved = []
    for optimizer in (rule.names()["AdamW"], plain.AdamW):
        params = Flat({"W": (1, 2), "b": (1,)}, np, "float64", np.ones(3))
        stepping = optimizer(params)
        for numbers in ([2.0, -0.5, 7.0], [1.0, 3.0, -1.0]):
            stepping.step(params, params.like(np.array(numbers)), 0.1)
        moved.append(params.buffer)
    assert not np.allclose(*moved)


DRAWN = [f"{name}:{next(n for n in range(99) if variant in ASSIGNMENTS[f'{name}:{n}'].variants)}"
         for name, kinds in variants.CHOICES.items() for kind in kinds for variant in kind]


def varied_units(assignment):
    """The numbers of the units that have a variant."""
    names = {variant.name for variant in assignment.variants}
    return tuple(i for i, unit in enumerate(assignment.units) if any(
        name.split(".")[1].removesuffix("_forward") in names for name in unit.functions))


@pytest.mark.parametrize("name", sorted(set(DRAWN)))
def test_the_librarys_solution_has_no_points_for_a_variant_and_the_report_says_why(name, tmp_path):
    assignment = ASSIGNMENTS[name]
    path = tmp_path / f"my_{name[:2]}.py"
    path.write_text(handout.students_file(ASSIGNMENTS[name[:2]], solved=True))
    report = grade(assignment, path, seed=0, units=varied_units(assignment))
    assert report.points == (12 if name.startswith("a6") else 0), str(report)            # clip has no variant
    said = [line for line in report.feedback() if "the sheet asks for" in line]
    assert {line.partition(":")[0] for line in said} >= {
        "AdamW.step" if variant in RULES else f"{variant.name}_forward" for variant in assignment.variants}


@pytest.mark.parametrize("name", sorted(set(DRAWN)))
def test_what_is_right_for_a_variant_has_all_points(name, tmp_path, monkeypatch):
    """No solution of a variant stands in the repository, so the truth itself answers here, but for large arrays."""
    assignment = ASSIGNMENTS[name]
    slope = variants.Variant.gradient
    monkeypatch.setattr(variants.Variant, "gradient", lambda self, i, inputs, *others: slope(
        self, i, inputs, *others) if max(x.size for x in inputs) < 6000 else np.zeros_like(inputs[i]))
    monkeypatch.setattr(checks.Pair, "_along_directions", lambda *_: ())
    monkeypatch.setattr(context, "Worker", lambda client: SimpleNamespace(client=client))
    monkeypatch.setattr(context.Context, "student", lambda self, call, layout="", **arguments: self.truth(
        call, **arguments))
    path = tmp_path / f"my_{name[:2]}.py"
    path.write_text(handout.students_file(assignment))
    assignment = replace(assignment, units=tuple(       # a contract is that of a process
        replace(unit, tests=tuple(test for test in unit.tests if "contract" not in test.title))
        for unit in assignment.units))
    report = grade(assignment, path, seed=1, units=varied_units(assignment))
    assert report.points == report.out_of > 10, str(report)


@pytest.mark.parametrize("name", [f"{name}:0" for name in variants.CHOICES])
def test_a_variants_stub_has_no_points(name, tmp_path):
    path = tmp_path / f"my_{name[:2]}.py"
    path.write_text(handout.students_file(ASSIGNMENTS[name]))
    assert grade(ASSIGNMENTS[name], path, seed=0).points == 0


def test_a_right_solution_of_a_variant_has_all_points(tmp_path, monkeypatch):
    """No solution of a variant stands in the repository, so here the library's own equation is the variant."""
    same = variants._gates("as in the library", variants.GIN, variants.GFORGET, variants.TOTAL,
                           lambda *inputs: plain.memory_update_forward(*inputs)[0])
    path = tmp_path / "my_a5.py"
    path.write_text(handout.students_file(ASSIGNMENTS["a5"], solved=True))
    report = grade(replace(ASSIGNMENTS["a5"], variants=(same,)), path, seed=0, units=(1,))
    assert report.points == report.out_of, str(report)
    wrong = path.read_text() + ("\n\nright = memory_update_backward\n\n\ndef memory_update_backward(dM_next, cache):\n"
                                "    dR, *others = right(dM_next, cache)\n"
                                "    return dR * (1 + 1e-6 * (dR.size > 9000)), *others\n")
    path.write_text(wrong)
    report = grade(replace(ASSIGNMENTS["a5"], variants=(same,)), path, seed=0, units=(1,))
    assert "dR is wrong for large arrays" in str(report)


@pytest.mark.parametrize("name", [f"{name}:{number}" for name in variants.CHOICES for number in range(6)])
def test_a_handout_of_a_variant_asks_for_it_everywhere(name):
    assignment = ASSIGNMENTS[name]
    files = handout.files(assignment)
    for variant in assignment.variants:
        for which, path in (("sheet", f"{name[:2]}.md"), ("stub", f"my_{name[:2]}.py")):
            for old, new in getattr(variant, which):
                assert new in files[path]
                assert old in new or not old.strip(" .") or old not in files[path]
    assert max(map(len, files[f"my_{name[:2]}.py"].splitlines())) <= 120


def test_a_number_draws_the_same_variant_again_and_others_draw_others():
    drawn = [tuple(v.about for v in ASSIGNMENTS[f"a5:{number}"].variants) for number in range(40)]
    assert drawn == [tuple(v.about for v in ASSIGNMENTS[f"a5:{number}"].variants) for number in range(40)]
    assert len(set(drawn)) == 9


def test_no_lesson_and_no_page_holds_a_variants_equation():
    texts = {path: re.sub(r"\s", "", path.read_text(encoding="utf-8"))
             for folder, pattern in ((handout.HERE.parent, "*.py"), (handout.HERE.parents[1] / "docs", "*.md"),
                                     (handout.LIBRARY, "**/*.py"))
             for path in folder.glob(pattern)}
    for equation in ("sigmoid(MWforget", "(1-gin)*", "(1-g_in)*", "sigmoid((R-M)", "M@Wforget", "(R-M)@Win",
                     "sigmoid((Emem", "(Emem+a)@", "(Emem*x)@", "(Emem-x)@", "x**4", "x*x*x*x", "0.9*picked", "lse**2",
                     "z**2/100", "(1-p_target)", "x.mean(-1,keepdims=True)/2", "(1-g)*n", "tanh(q", "4*np.tanh",
                     "1/(1+d", "(g-m)**2", "(g-self.m)", "(1-b2)*abs(g)", "b1*m+(1-b1)*g)/"):
        assert not [path for path, text in texts.items() if equation in text], equation


@pytest.mark.parametrize(("name", "said"), [("a5:x", "invalid choice"), ("a1:7", "invalid choice"),
                                            ("a5:-1", "invalid choice")])
def test_a_variant_that_is_not_there_is_refused(name, said, tmp_path, capsys):
    assert main(["handout", name, "-o", str(tmp_path / "x")]) == 2
    assert said in capsys.readouterr().err


def test_a_variant_has_no_written_solution(tmp_path, capsys):
    assert main(["handout", "a5:7", "--solved", "-o", str(tmp_path / "x")]) == 2
    assert "no written solution" in capsys.readouterr().err
