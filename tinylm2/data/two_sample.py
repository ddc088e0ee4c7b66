"""Can a classifier tell our stories from the official ones? python -m tinylm2.data.distributions FOLDER --classifier.

A two-sample test (Lopez-Paz and Oquab 2017): a classifier is trained to separate official from generated stories and
then sees others. Where both come from one distribution, the area under its curve is .5, but for chance. Two judges, of
different kinds:

    grams   logistic regression over the 1- to 4-grams of a story, line numbers included, in which names, places and
            things are replaced by the order of their appearance. The generators were mended by what it found.
    trees   boosted trees over measurements of each question: distances, counts of facts, of people, places and things.
            It was kept aside, and run when the generators had been mended.

Both judge whole stories, and no story stands on both sides of a fold.
"""

import re
from collections import Counter
from collections.abc import Iterator
from math import fsum
from typing import Any, NamedTuple

from tinylm2.data.rng import EVALUATION, Rng
from tinylm2.data.stories import Question
from tinylm2.data.tasks import WORLDS
from tinylm2.data.tasks.carrying import THINGS
from tinylm2.data.tasks.placing import BOXES, SHAPES, SWEETS
from tinylm2.data.tasks.reasoning import COLORS, KINDS, PLURAL
from tinylm2.data.tasks.walking import HOUSE, TOWN
from tinylm2.errors import BadInput

BAR = .55                                                # an area above it gives a task away
DRAWS, FOLDS = 5, 5                                      # of generated stories; of both kinds
FEWEST, RATIO, MOST = 800, 4, 2000                       # generated stories: RATIO an official one, within these limits

_PEOPLE = {name.lower() for module in WORLDS for world in vars(module).values()
           for name in (*getattr(world, "people", ()), *getattr(world, "names", ()))}
_WORDS = {**dict.fromkeys(_PEOPLE, "person"), **dict.fromkeys((*HOUSE, *TOWN), "place"),
          **dict.fromkeys((*THINGS, *SHAPES, *SWEETS, *BOXES), "thing"), **dict.fromkeys(COLORS, "colour"),
          **dict.fromkeys((*KINDS, *PLURAL, *PLURAL.values()), "kind")}
_SINGULAR = {plural: kind for kind, plural in PLURAL.items()}
_NAMED = re.compile(rf"\b({'|'.join(sorted(_WORDS, key=len, reverse=True))})\b")


class Verdict(NamedTuple):
    """Of one judge on one task: the area of each draw of generated stories, and its standard deviation by chance."""

    areas: list[float]
    chance: float

    @property
    def area(self) -> float:
        return fsum(self.areas) / len(self.areas)

    def __str__(self):
        text = f"{self.area:.3f} ({min(self.areas):.3f}-{max(self.areas):.3f}) ± {self.chance:.3f}"
        return text if self.area <= BAR else f"**{text}**"


def delexicalised(story: Any) -> list:
    """A list of words per line, its answer included: whoever and whatever has a name is "person1", "place2", ..."""
    seen, lines = {}, []

    def placed(match):
        name = _SINGULAR.get(match[1], match[1])
        known = seen.setdefault(_WORDS[match[1]], [])
        if name not in known:
            known.append(name)
        return f"{_WORDS[match[1]]}{known.index(name) + 1}"

    for line in story:
        text = f"{line.text} {line.answer}" if isinstance(line, Question) else line.text
        lines.append(re.findall(r"\w+|\?", _NAMED.sub(placed, text.lower())))
    return lines


def text_of(story: Any) -> str:
    """The delexicalised story as one text, each line behind its number: what `grams` reads."""
    return " ".join(f"#{number} {' '.join(words)}" for number, words in enumerate(delexicalised(story), 1))


def measurements(story: Any) -> Iterator:
    """A list of numbers per question: what `trees` reads. The names of things do not enter."""
    lines, facts, asked, before = delexicalised(story), [], 0, 0
    for number, (line, words) in enumerate(zip(story, lines, strict=True), 1):
        if not isinstance(line, Question):
            facts.append(words)
            continue
        told = Counter(word for fact in facts for word in fact)
        named = [word for word in told if word[-1].isdigit()]
        subjects = [next((word for word in fact if word[-1].isdigit()), "") for fact in facts]
        support = [number - told for told in line.support] or [-1]
        split = words.index("?") if "?" in words else len(words)
        yield [number, asked, len(facts), len(facts) - before, len(support), min(support), max(support), support[0],
               *(sum(word.startswith(kind) for word in named) for kind in ("person", "place", "thing", "kind")),
               len(set(subjects)), sum(map(str.__eq__, subjects, subjects[1:])), max(Counter(subjects).values()),
               sum(map(len, facts)) / len(facts), len(set(told) - set(named)), len(set(map(tuple, facts))),
               *_mentions(words[:split], told, facts), *_mentions(words[split + 1:], told, facts)]
        asked, before = asked + 1, len(facts)


def _mentions(words, told, facts):
    """How often a question's or an answer's first name was told, and how many facts ago last and first."""
    name = next((word for word in words if word[-1].isdigit()), None)
    where = [len(facts) - i for i, fact in enumerate(facts) if name in fact]
    return told[name], min(where, default=-1), max(where, default=-1), len(words)


def _sklearn():
    """scikit-learn, an extra of the tests, with the parts that are used here."""
    try:
        import sklearn.ensemble
        import sklearn.feature_extraction.text
        import sklearn.linear_model
        import sklearn.metrics
        import sklearn.model_selection
    except ImportError:
        raise BadInput("--classifier: found no scikit-learn, expected pip install scikit-learn") from None
    return sklearn


def _regression():
    return _sklearn().linear_model.LogisticRegression(C=.03, class_weight="balanced", solver="liblinear",
                                                      random_state=0)


def _ngrams(stories):
    """A row per story: which n-grams it has; and the n-grams."""
    counter = _sklearn().feature_extraction.text.CountVectorizer(
        token_pattern=r"\S+", lowercase=False, ngram_range=(1, 4), min_df=3, binary=True)
    rows: Any = counter.fit_transform(map(text_of, stories))
    return rows.astype(float), counter.get_feature_names_out()


def grams(official: Any, told: Any, *, seed: int = 0) -> float:
    """The area under the curve of the regression over n-grams, mean over the folds."""
    rows, _ = _ngrams([*official, *told])

    def scores(train, test, kinds):
        return _regression().fit(rows[train], kinds).decision_function(rows[test])

    return _area(scores, len(official), len(told), seed)


def _area(scores, official, told, seed):
    """The area under the curve, mean over the folds: so many official stories, then so many generated ones."""
    sklearn, kinds, areas = _sklearn(), [1] * official + [0] * told, []
    folds = sklearn.model_selection.StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(kinds, kinds):
        found = scores(train, test, [kinds[i] for i in train])
        areas.append(sklearn.metrics.roc_auc_score([kinds[i] for i in test], found))
    return fsum(areas) / FOLDS


def signs(official: Any, told: Any, count: int = 3) -> tuple:
    """The n-grams that speak most for an official and most for a generated story, by the regression over all."""
    rows, names = _ngrams([*official, *told])
    weights: Any = _regression().fit(rows, [1] * len(official) + [0] * len(told)).coef_[0]
    order = weights.argsort()
    return [names[i] for i in order[::-1][:count]], [names[i] for i in order[:count]]


def trees(official: Any, told: Any, *, seed: int = 0) -> float:
    """The area under the curve of the boosted trees: of each story, the mean over its questions; over the folds."""
    asked = [list(measurements(story)) for story in (*official, *told)]

    def scores(train, test, kinds):
        model = _sklearn().ensemble.HistGradientBoostingClassifier(
            learning_rate=.05, max_iter=60, max_leaf_nodes=8, class_weight="balanced", random_state=0)
        model.fit([row for i in train for row in asked[i]],
                  [kind for i, kind in zip(train, kinds, strict=True) for _ in asked[i]])
        return [model.decision_function(asked[i]).mean() for i in test]

    return _area(scores, len(official), len(told), seed)


def generated(task: Any, count: int, *key: int) -> list:
    """So many stories of a task, of the random streams of this key."""
    seed, *rest = key
    return [task.story(Rng(seed, EVALUATION, task.number, *rest, number)) for number in range(count)]


def verdict(judge: Any, task: Any, official: Any, *, seed: int = 0, draws: int = DRAWS) -> Verdict:
    """What `grams` or `trees` finds between a task's stories and these official ones.

    Where n official and m generated stories come from one distribution, the area has the standard deviation
    sqrt((m + n + 1) / (12 m n)) (Mann and Whitney 1947). The official stories are the same in all draws, so it is that
    of the mean, too.
    """
    n = len(official)
    if n < FOLDS:
        raise BadInput(f"{task.name}: found {n} stories with questions, expected at least {FOLDS} to judge")
    m = min(max(RATIO * n, FEWEST), MOST)
    areas = [judge(official, generated(task, m, seed, draw), seed=draw) for draw in range(draws)]
    return Verdict(areas, ((m + n + 1) / (12 * m * n)) ** .5)
