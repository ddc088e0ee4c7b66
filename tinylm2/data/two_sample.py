"""Can a classifier separate generated from official stories? python -m tinylm2.data.distributions FOLDER --classifier.

A two-sample test (Lopez-Paz and Oquab 2017): a classifier is trained to separate official from generated stories and
is then tested on other stories. Where both kinds come from one distribution, the area under its ROC curve is .5, up to
chance. There are two classifiers of different kinds:

    grams   logistic regression over the 1- to 4-grams of a story, with line numbers. Names, places and things are
            numbered in the order in which they appear. The generators were corrected with its results.
    trees   boosted trees over measurements of each question: distances, numbers of facts, people, places and things.
            They were run only after these corrections.

Both classify whole stories. No story is in the training part and in the test part of a fold.
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

THRESHOLD = .55                                          # a larger area: the classifier separates the two kinds
DRAWS, FOLDS = 5, 5                                      # samples of generated stories; folds of cross-validation
FEWEST, RATIO, MOST = 800, 4, 2000                       # generated stories: RATIO per official one, within limits

_PEOPLE = {name.lower() for module in WORLDS for world in vars(module).values()
           for name in (*getattr(world, "people", ()), *getattr(world, "names", ()))}
_WORDS = {**dict.fromkeys(_PEOPLE, "person"), **dict.fromkeys((*HOUSE, *TOWN), "place"),
          **dict.fromkeys((*THINGS, *SHAPES, *SWEETS, *BOXES), "thing"), **dict.fromkeys(COLORS, "colour"),
          **dict.fromkeys((*KINDS, *PLURAL, *PLURAL.values()), "kind")}
_SINGULAR = {plural: kind for kind, plural in PLURAL.items()}
_NAMED = re.compile(rf"\b({'|'.join(sorted(_WORDS, key=len, reverse=True))})\b")


class Verdict(NamedTuple):
    """One classifier on one task: the area of each draw of generated stories, and its standard deviation by chance."""

    areas: list[float]
    chance: float

    @property
    def area(self) -> float:
        return fsum(self.areas) / len(self.areas)

    def __str__(self):
        text = f"{self.area:.3f} ({min(self.areas):.3f}-{max(self.areas):.3f}) ± {self.chance:.3f}"
        return text if self.area <= THRESHOLD else f"**{text}**"


def delexicalised(story: Any) -> list:
    """A list of words per line, with the answer. Every name is replaced by "person1", "place2", ..."""
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
    """The delexicalised story as one text, with line numbers: the input of `grams`."""
    return " ".join(f"#{number} {' '.join(words)}" for number, words in enumerate(delexicalised(story), 1))


def measurements(story: Any) -> Iterator:
    """A list of numbers per question: the input of `trees`. They do not depend on the names of things."""
    lines, facts, asked, before = delexicalised(story), [], 0, 0
    for number, (line, words) in enumerate(zip(story, lines, strict=True), 1):
        if not isinstance(line, Question):
            facts.append(words)
            continue
        words_so_far = Counter(word for fact in facts for word in fact)
        named = [word for word in words_so_far if word[-1].isdigit()]
        subjects = [next((word for word in fact if word[-1].isdigit()), "") for fact in facts]
        support = [number - fact for fact in line.support] or [-1]
        split = words.index("?") if "?" in words else len(words)
        yield [number, asked, len(facts), len(facts) - before, len(support), min(support), max(support), support[0],
               *(sum(word.startswith(kind) for word in named) for kind in ("person", "place", "thing", "kind")),
               len(set(subjects)), sum(map(str.__eq__, subjects, subjects[1:])), max(Counter(subjects).values()),
               sum(map(len, facts)) / len(facts), len(set(words_so_far) - set(named)), len(set(map(tuple, facts))),
               *_mentions(words[:split], words_so_far, facts), *_mentions(words[split + 1:], words_so_far, facts)]
        asked, before = asked + 1, len(facts)


def _mentions(words, words_so_far, facts):
    """Of the first name in a question or an answer: mentions so far, facts since the last and since the first."""
    name = next((word for word in words if word[-1].isdigit()), None)
    where = [len(facts) - i for i, fact in enumerate(facts) if name in fact]
    return words_so_far[name], min(where, default=-1), max(where, default=-1), len(words)


def _sklearn():
    """scikit-learn, an extra of the tests, with the parts that are used here.  BadInput where it is missing."""
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
    """(a row per story that marks the n-grams it has, the n-grams)."""
    counter = _sklearn().feature_extraction.text.CountVectorizer(
        token_pattern=r"\S+", lowercase=False, ngram_range=(1, 4), min_df=3, binary=True)
    rows: Any = counter.fit_transform(map(text_of, stories))
    return rows.astype(float), counter.get_feature_names_out()


def grams(official: Any, generated: Any, *, seed: int = 0) -> float:
    """The area under the ROC curve of the regression over n-grams, mean over the folds."""
    rows, _ = _ngrams([*official, *generated])

    def scores(train, test, kinds):
        return _regression().fit(rows[train], kinds).decision_function(rows[test])

    return _area(scores, len(official), len(generated), seed)


def _area(scores, official, generated, seed):
    """The area under the ROC curve, mean over the folds. official, generated: numbers of stories, in this order."""
    sklearn, kinds, areas = _sklearn(), [1] * official + [0] * generated, []
    folds = sklearn.model_selection.StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(kinds, kinds):
        found = scores(train, test, [kinds[i] for i in train])
        areas.append(sklearn.metrics.roc_auc_score([kinds[i] for i in test], found))
    return fsum(areas) / FOLDS


def signs(official: Any, generated: Any, count: int = 3) -> tuple:
    """The n-grams most typical of official and of generated stories, by a regression over all stories."""
    rows, names = _ngrams([*official, *generated])
    weights: Any = _regression().fit(rows, [1] * len(official) + [0] * len(generated)).coef_[0]
    order = weights.argsort()
    return [names[i] for i in order[::-1][:count]], [names[i] for i in order[:count]]


def trees(official: Any, generated: Any, *, seed: int = 0) -> float:
    """The area under the ROC curve of boosted trees, mean over the folds. A story scores the mean of its questions."""
    asked = [list(measurements(story)) for story in (*official, *generated)]

    def scores(train, test, kinds):
        model = _sklearn().ensemble.HistGradientBoostingClassifier(
            learning_rate=.05, max_iter=60, max_leaf_nodes=8, class_weight="balanced", random_state=0)
        model.fit([row for i in train for row in asked[i]],
                  [kind for i, kind in zip(train, kinds, strict=True) for _ in asked[i]])
        return [model.decision_function(asked[i]).mean() for i in test]

    return _area(scores, len(official), len(generated), seed)


def generated(task: Any, count: int, *key: int) -> list:
    """`count` stories of a task from the random streams of this key."""
    seed, *rest = key
    return [task.story(Rng(seed, EVALUATION, task.number, *rest, number)) for number in range(count)]


def verdict(judge: Any, task: Any, official: Any, *, seed: int = 0, draws: int = DRAWS) -> Verdict:
    """The Verdict of `grams` or `trees` on a task's stories and these official ones.

    Where n official and m generated stories come from one distribution, the area has the standard deviation
    sqrt((m + n + 1) / (12 m n)) (Mann and Whitney 1947). The official stories are the same in all draws, so the
    mean over the draws has about the same deviation.
    """
    n = len(official)
    if n < FOLDS:
        raise BadInput(f"{task.name}: found {n} stories with questions, expected at least {FOLDS} to judge")
    m = min(max(RATIO * n, FEWEST), MOST)
    areas = [judge(official, generated(task, m, seed, draw), seed=draw) for draw in range(draws)]
    return Verdict(areas, ((m + n + 1) / (12 * m * n)) ** .5)
