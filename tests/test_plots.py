"""Pictures say what they show: the numbers drawn are the trace's, all words are inside, the facts are marked."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest

from tests.support import watched
from tinylm2.__main__ import main
from tinylm2.cli import plot
from tinylm2.data import BadInput, Example
from tinylm2.inspect import plots
from tinylm2.inspect.trace import PlaceTrace, Trace
from tinylm2.training import run_dir

METRICS = [{"step": i, "stage": "A" if i < 60 else "A2" if i < 90 else "B", "loss": 6 * 0.97**i, "accuracy": i / 200}
           for i in range(200)]
SCORES = {"0": {"by_distance": {"0": 1.0}}, "4": {"by_distance": {"0": 1.0, "1": 0.9, "3": 0.4}},
          "8": {"by_distance": {}}}


@pytest.fixture(scope="module")
def seen():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install '.[plots]')")
    found = watched.loaded()
    return watched.seen(found, watched.row_of(found))


def pictures(seen):
    trace, frozen, row, words = seen.live.trace, seen.frozen.trace, seen.row, seen.words
    return {
        "curves": plots.curves(METRICS),
        "accuracy": plots.accuracy_by_distance({"generated": SCORES, "stories": SCORES}),
        "read": plots.read_map(trace, row, words, block=1), "write": plots.write_map(trace, row, words, block=0),
        "before and after": plots.before_and_after(trace, frozen, row, words, block=0),
        "gates": plots.gates(trace), "similarity": plots.state_similarity(trace), "change": plots.state_change(trace)}


def maps(figure):
    """The weights that the maps of a figure draw, by heading."""
    return {ax.get_title(): ax.collections[0].get_array() for ax in figure.axes if ax.get_title() and ax.collections}


def tokens(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def outside(figure):
    """By how many inches what is drawn reaches over each edge of its figure; none of them, if none."""
    figure.draw_without_rendering()
    drawn, canvas = figure.get_tightbbox(), figure.bbox_inches
    over = {"left": canvas.x0 - drawn.x0, "right": drawn.x1 - canvas.x1, "bottom": canvas.y0 - drawn.y0,
            "top": drawn.y1 - canvas.y1}
    return {edge: inches for edge, inches in over.items() if inches > 0}


def test_no_word_of_any_picture_is_cut_off(seen):
    for name, figure in pictures(seen).items():
        assert not outside(figure), name
    crowded = plots.gates(seen.live.trace)
    crowded.set_layout_engine("none")
    crowded.axes[0].set_ylabel("a label", labelpad=90)
    assert "left" in outside(crowded)                    # the measure itself can fail


def test_pictures_are_written_as_png_and_svg_the_same_every_time(seen, tmp_path):
    figure = plots.gates(seen.live.trace)
    png, svg = plots.save(figure, tmp_path / "gates")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "<svg" in svg.read_text()
    for path, again in zip((png, svg), plots.save(plots.gates(seen.live.trace), tmp_path / "again"), strict=True):
        assert path.read_bytes() == again.read_bytes()


def test_a_read_map_draws_the_trace_where_the_fact_is_told_and_where_it_is_asked(seen):
    places, row = seen.live.trace.places, seen.row
    told, asked = (row.support[0][1] - 1) // 16, row.segments - 1
    assert told < asked
    figure = plots.read_map(seen.live.trace, row, seen.words, block=1)
    assert list(maps(figure)) == [f"segment {s + 1}, head {h}" for s in (told, asked) for h in (1, 2)]
    for s in (told, asked):
        for h in (0, 1):
            drawn = maps(figure)[f"segment {s + 1}, head {h + 1}"]
            assert np.array_equal(drawn, places[s][1].read[0, h])
    start, end = row.support[0]
    words = seen.words[told * 16:(told + 1) * 16]
    marked = [f"▸ {w}" if start <= told * 16 + t < end else w for t, w in enumerate(words)]
    assert tokens(figure.axes[0]) == marked
    weights = [label.get_fontweight() for label in figure.axes[0].get_yticklabels()]
    assert [w == "bold" for w in weights] == [text.startswith("▸") for text in marked]
    last = seen.words[asked * 16:]
    assert tokens(figure.axes[2]) == last
    styles = [label.get_fontstyle() for label in figure.axes[2].get_yticklabels()]
    assert [s == "italic" for s in styles] == [asked * 16 + t >= row.asked for t in range(len(last))]


def test_a_write_map_draws_slots_over_tokens_of_a_segment_that_wrote(seen):
    row = seen.row
    told = (row.support[0][1] - 1) // 16
    drawn = maps(plots.write_map(seen.live.trace, row, seen.words, block=0))
    assert list(drawn) == [f"segment {told + 1}, head {h}" for h in (1, 2)]
    assert np.array_equal(drawn[f"segment {told + 1}, head 2"], seen.live.trace.places[told][0].write[0, 1].T)
    late = replace(row, support=((row.asked - 5, row.asked),))           # told in the last one, which writes nothing
    drawn = maps(plots.write_map(seen.live.trace, late, seen.words, block=0))
    assert list(drawn)[0] == f"segment {row.segments - 1}, head 1"


def test_before_and_after_are_the_frozen_story_and_the_living_one(seen):
    drawn = maps(plots.before_and_after(seen.live.trace, seen.frozen.trace, seen.row, seen.words, block=0))
    for h in (0, 1):
        assert np.array_equal(drawn[f"head {h + 1}, before"], seen.frozen.trace.places[-1][0].read[0, h])
        assert np.array_equal(drawn[f"head {h + 1}, after"], seen.live.trace.places[-1][0].read[0, h])
    assert not np.array_equal(drawn["head 1, before"], drawn["head 1, after"])


def test_gates_are_drawn_as_means_over_segments_where_they_exist(seen):
    ax = plots.gates(seen.live.trace).axes[1]
    lines = {line.get_label(): line.get_data() for line in ax.lines}
    block = [places[1] for places in seen.live.trace.places]
    assert np.array_equal(lines["output gate"], [range(1, 5), [place.output.mean() for place in block]])
    assert np.array_equal(lines["forget gate"], [range(1, 4), [place.forget.mean() for place in block[:-1]]])


def test_similarity_is_the_mean_cosine_of_each_slot_with_itself():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install '.[plots]')")
    then, later = [[1.0, 0.0], [0.0, 2.0]], [[0.0, 3.0], [0.0, 1.0]]     # one slot turned, the other only shrank
    trace = Trace(None, [[PlaceTrace({"M": np.array([M])}, {}), PlaceTrace()] for M in (then, later)])
    (drawn,) = maps(plots.state_similarity(trace)).values()
    np.testing.assert_allclose(drawn, [[1, 0.5], [0.5, 1]])


def test_curves_show_every_step_and_a_mean_and_name_the_stages():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install '.[plots]')")
    figure = plots.curves(METRICS)
    raw, mean = figure.axes[0].lines
    losses = np.array([m["loss"] for m in METRICS])
    assert np.array_equal(raw.get_ydata(), losses)
    np.testing.assert_allclose(mean.get_ydata()[[0, 10, 199]], [losses[0], losses[:11].mean(), losses[180:].mean()])
    assert [text.get_text() for text in figure.axes[0].texts] == ["stage A", "stage A2", "stage B"]


def test_accuracy_is_drawn_over_distance_a_line_a_length():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install '.[plots]')")
    lines = plots.accuracy_by_distance({"generated": SCORES}).axes[0].lines
    assert [line.get_label() for line in lines] == ["no filler", "4 segments"]
    assert np.array_equal(lines[1].get_data(), [[0, 1, 3], [1.0, 0.9, 0.4]])
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == 2


def test_maps_print_in_grey_from_dark_to_light(seen):
    mesh = plots.read_map(seen.live.trace, seen.row, seen.words, block=0).axes[0].collections[0]
    grey = mesh.cmap(np.linspace(0, 1, 64))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(grey) > 0).all()


def test_any_text_is_a_label_and_no_formula(seen, tmp_path):
    words = ["$x^2$", "🎉", "<b>", "\\frac{1}", "", *seen.words[5:]]
    row = replace(seen.row, support=((0, 2),))
    figure = plots.read_map(seen.live.trace, row, words, block=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.save(figure, tmp_path / "map")
    assert tokens(figure.axes[0])[:5] == ["▸ $x^2$", "▸ 🎉", "<b>", "\\frac{1}", "·"]


def test_plot_writes_every_picture_of_a_run(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install '.[plots]')")
    watched.save(tmp_path, run_dir.new(replace(watched.SETTINGS, hidden_size=8, heads=1, kv_heads=1, blocks=1)))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in METRICS))
    (tmp_path / "evaluation.json").write_text(json.dumps({"generated": SCORES}))
    assert main(["plot", str(tmp_path), "--length", "48"]) == 0
    names = ["accuracy-by-distance", "curves", "gates", "state-change", "state-similarity",
             *(f"{name}-block-1" for name in ("before-after", "read", "write"))]
    found = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert found == sorted(f"{name}.{kind}" for name in names for kind in ("png", "svg"))
    assert capsys.readouterr().out.count(".png") == len(names)
    (tmp_path / "metrics.jsonl").write_text(f'{json.dumps(METRICS[0])}\n{{"step"\n')
    assert main(["plot", str(tmp_path)]) == 2
    assert "metrics.jsonl:2: found" in capsys.readouterr().err


PARTS = ("read", "output", "write", "input", "forget")


@pytest.mark.parametrize(("memory", "places", "parts", "alike"), [
    ("pooled", [1], PARTS, ["block 2, M"]), ("none", [], (), []), ("window", [1], (), []), ("full", [1], (), []),
    ("rmt", [2], (), ["the segment's memory, M"])])
def test_what_a_model_does_not_have_is_not_drawn(memory, places, parts, alike, seen):
    found = watched.loaded(memory=memory, memory_blocks=None if memory == "rmt" else (1,))
    other = watched.seen(found, watched.row_of(found))
    trace, row, words = other.live.trace, other.row, other.words
    assert plots.places_with_memory(trace) == places
    for part in PARTS:
        assert plots.places_with(trace, part) == (places if part in parts else [])
    similarity = plots.state_similarity(trace)
    assert (list(maps(similarity)) if similarity else []) == alike
    names = [name for name, _ in plot.of_story(found, row)]
    expected = ["gates"] * bool(parts) + ["state-similarity"] * bool(alike)
    expected += ["state-change"] * (memory not in ("full", "none"))
    if parts:
        plots.read_map(trace, row, words, block=1)
        assert len(maps(plots.write_map(trace, row, words, block=1))) == 2
        assert [ax.get_title() for ax in plots.gates(trace).axes] == ["block 2"]
        expected += ["read-block-2", "before-after-block-2", "write-block-2"]
    assert names == expected


def test_the_state_s_change_is_its_relative_size_where_before_and_after_have_one_shape():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install '.[plots]')")
    states = [np.array([[[3.0, 4.0]]]), np.array([[[3.0, 14.0]]]), np.array([[[3.0, 14.0]]])]
    places = [PlaceTrace({"M": before}, {"M": after}) for before, after in zip(states, states[1:], strict=False)]
    growing = PlaceTrace({"k": np.ones((1, 2, 1))}, {"k": np.ones((1, 4, 1))})
    trace = Trace(None, [[place, growing, PlaceTrace()] for place in (*places, PlaceTrace({"M": states[2]}, {}))])
    (line,) = plots.state_change(trace).axes[0].lines
    assert line.get_label() == "block 1, M"
    np.testing.assert_allclose(line.get_data(), [[1, 2], [2.0, 0.0]])


def test_one_segment_writes_nothing_and_its_padding_is_not_drawn(seen):
    found = watched.loaded()
    short = watched.own(found, Example("", ("Mary moved to the garden.",), "Where is Mary?", "garden", (0,)))
    figure = plots.read_map(short.live.trace, short.row, short.words, block=0)
    assert short.row.pad
    assert " ".join(tokens(figure.axes[0])) == "▸ mary ▸ moved ▸ to ▸ the ▸ garden where is mary"
    assert np.array_equal(maps(figure)["segment 1, head 2"], short.live.trace.places[0][0].read[0, 1, short.row.pad:])
    with pytest.raises(ValueError, match="one segment"):
        plots.write_map(short.live.trace, short.row, short.words, block=0)


def test_matplotlib_is_imported_late_and_missed_in_one_line(monkeypatch):
    lazy = "import sys, tinylm2.__main__; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", lazy], timeout=60).returncode == 0
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BadInput, match=r"^found no matplotlib, expected it for pictures: pip install matplotlib$"):
        plots.curves(METRICS)
