# %% [markdown]
# # 15. Looking inside: maps, gates, slots
#
# **Time:** 25 minutes. **Before it:** lesson 12 (13 helps).
#
# The model of lesson 13 answers questions about facts several segments back. How does it do that? Nobody told it what
# a slot is for. In this lesson you open it, and instead of admiring pictures you *operate*: take things out, put
# others in, and see what the answers do. What you will find was not put there by anyone.

# %%
from itertools import combinations

import lesson
import numpy as np

from tinylm2 import decoding, model
from tinylm2.data import TASKS, GrammarFiller, encode_examples, generated_examples, make_prompts
from tinylm2.inspect import plots
from tinylm2.inspect.trace import pieces, trace, traced_answer

run = lesson.trained("lm2")
params, cfg, tokenizer = run.params, run.cfg, run.tokenizer
last_segment = 3 * cfg.T

# %% [markdown]
# ## Stories whose answer lies behind a border
#
# Four segments; we keep the questions whose fact does not stand in the last one, so that nothing but the bank can
# bring it there.

# %%
examples = generated_examples(TASKS["qa1"], 600, seed=5)
rows, _ = encode_examples(examples, 4, tokenizer=tokenizer, filler=GrammarFiller(), segment_len=cfg.T, seed=5)
rows = [row for row in rows if row.distance >= 1]
ids, _ = make_prompts(rows)
truth = np.array([row.answer[0] for row in rows])
who = ids[:, -1]                                         # the question ends in the person asked for
people = {token: tokenizer.decode([token]) for token in sorted(set(who.tolist()))}
print(f"{len(rows)} questions about {', '.join(people.values())}")



def banks_of(states):
    """The bank of each block, (B, N, D)."""
    return [M for (M,) in states[:cfg.L]]


def answers(banks, params=params):
    """The likeliest word after the question, when the last segment reads these banks."""
    states = (*((M,) for M in banks), None)              # the last place belongs to the segment as a whole: nothing
    logits, _, _ = model.segment_forward(params, states, ids=ids[:, last_segment:], cfg=cfg, last=1, write=False)
    return logits[:, -1].argmax(-1)


states, start = decoding.read(params, ids=ids, cfg=cfg)
banks = banks_of(states)
assert start == last_segment
print(f"share of right answers: {(answers(banks) == truth).mean():.3f}")
assert (answers(banks) == truth).mean() > 0.97

# %% [markdown]
# ## Operation 1: exchange the banks
#
# For every story, find another that asks for the same person, who is somewhere else. Give the last segment of the
# first the banks of the second. If the bank is the memory, the answer must follow the bank, against everything else.

# %%
rng = np.random.default_rng(0)
other = np.array([rng.choice(np.flatnonzero((who == who[i]) & (truth != truth[i]))) for i in range(len(rows))])
exchanged = answers([M[other] for M in banks])
print(f"answers with the place of the story whose banks were put in: {(exchanged == truth[other]).mean():.3f}, "
      f"with its own: {(exchanged == truth).mean():.3f}")
assert (exchanged == truth[other]).mean() > 0.95

# %% [markdown]
# Not a correlation, but a cause. **Which block's bank?** Put the fresh bank, rows of the identity, in the place of
# one at a time:

# %%
fresh = banks_of(model.first_states(params, cfg, len(rows))[0])
without = []
for i in range(cfg.L):
    emptied = [fresh[j] if j == i else banks[j] for j in range(cfg.L)]
    without.append((answers(emptied) == truth).mean())
    print(f"without the bank of block {i}: correct {without[i]:.3f}")
block = int(np.argmin(without))
assert without[block] < 0.4
assert max(without) > 0.95

# %% [markdown]
# ## Operation 2: one slot at a time
#
# One block holds it all, in 16 slots. Empty one slot, ask everybody, and look at the answers for each person by
# itself.

# %%
def with_slots(slots, M_from):
    """The banks with some slots of our block taken from other banks."""
    M = banks[block].copy()
    M[:, slots] = M_from[block][:, slots]
    return [M if j == block else banks[j] for j in range(cfg.L)]


def lost_without(*slots):
    """For each person the share of answers that are wrong when these slots are empty."""
    wrong = answers(with_slots(slots, fresh)) != truth
    return np.array([wrong[who == token].mean() for token in people])


names, owner = list(people.values()), {}
lost = np.array([lost_without(n) for n in range(cfg.N)])
for i, name in enumerate(names):
    n = int(lost[:, i].argmax())
    print(f"{name:<8} suffers most without slot {n}: {lost[n, i]:.2f} of the answers wrong")
    if lost[n, i] > 0.3:
        owner[name] = (n,)
assert len(set(owner.values())) == 3
assert np.median(lost) < 0.02

# %% [markdown]
# Most slots do not matter at all. Three matter, and each for *one person only*. The model has made itself a table: one
# slot per person. Nobody asked it to.
#
# And Daniel? No slot is missed when he is asked for. That is weak evidence: a second copy would hide the loss of the
# first. So let us empty *two* slots at a time, all 120 pairs.

# %%
pairs = list(combinations(range(cfg.N), 2))
for i, name in enumerate(names):
    if name not in owner:
        shares = [lost_without(*pair)[i] for pair in pairs]
        owner[name] = pairs[int(np.argmax(shares))]
        a, b = owner[name]
        print(f"{name:<8} without slot {a}: {lost[a, i]:.2f} wrong; without slot {b}: {lost[b, i]:.2f}; "
              f"without both: {max(shares):.2f}")
        assert max(shares) > 0.4
        assert np.median(shares) < 0.02

# %% [markdown]
# He is written down twice, and either copy will do. That is the whole table, as the last cut shows: five slots
# emptied leave a guess.

# %%
table = tuple(n for slots in owner.values() for n in slots)
others = tuple(n for n in range(cfg.N) if n not in table)
emptied = (answers(with_slots(table, fresh)) == truth).mean()
print(f"without slots {table}: correct {emptied:.3f}")
assert emptied < 0.3

# %% [markdown]
# ## What does such a slot listen to?
#
# In the segment where a person's last move is told, the person's slot has asked all 32 tokens. Here is what it heard,
# summed up for the three kinds of words in a fact, and for all the rest.

# %%
places = trace(params, ids=ids, cfg=cfg).places           # places[s][i]: what the memory of block i did in segment s


def fact_of(row):
    """(segment, first place, last place) of the fact, places within the segment; None where a border cuts it."""
    ((first, end),) = row.support
    s = first // cfg.T
    return (s, first - s * cfg.T, end - 1 - s * cfg.T) if (end - 1) // cfg.T == s else None


heard = {"the person": [], "between": [], "the place": [], "all 25 or so other words": []}
for b, row in enumerate(rows):
    if fact_of(row) is None:
        continue
    s, first, end = fact_of(row)
    weights = places[s][block].write[b][:, owner[people[who[b]]]].max((0, 1))     # the head that hears it best
    heard["the person"].append(weights[first])
    heard["between"].append(weights[first + 1:end].sum())
    heard["the place"].append(weights[end])
    heard["all 25 or so other words"].append(np.delete(weights, range(first, end + 1)).mean())
print("how much the slot of a person hears, of a sentence about that person:")
for words, weights in heard.items():
    print(f"{words:<26} {np.mean(weights):.3f}")
assert np.mean(heard["the place"]) > 0.6
assert np.mean(heard["the place"]) > 5 * np.mean(heard["the person"])

# %% [markdown]
# The slot of Mary hears one word: the *place* in the sentence about Mary. The name itself it hardly hears. How does
# it know whose place it is? Let us put another name into the fact, and leave every other word as it is:

# %%
renamed, cases = ids.copy(), []
for b, row in enumerate(rows):
    if fact_of(row) is not None:
        s, first, end = fact_of(row)
        somebody = next(token for token in people if owner[people[token]] != owner[people[who[b]]])
        renamed[b, s * cfg.T + first] = somebody
        cases.append((b, s, end, owner[people[who[b]]], owner[people[somebody]]))
places_renamed = trace(params, ids=renamed, cfg=cfg).places
by_old, by_new = np.transpose([[places_renamed[s][block].write[b][:, slots, end].max() for slots in (old, new)]
                               for b, s, end, old, new in cases])
print(f"the place is now heard by the old owner's slot {by_old.mean():.2f}, by the new owner's {by_new.mean():.2f}")
assert by_old.mean() < 0.3
assert by_new.mean() > 0.6

# %% [markdown]
# The same word, `garden` say, is now heard by another slot. So its *key* in this block carries the name. There is
# only one way in which the name can have come there: self-attention in the block before, where `garden` asked who it
# was about. Two layers of attention have divided the work; this is the binding that lesson 13 waited for.
#
# One story, with its maps. Bold words are the fact, columns are slots; a column shows from which words a slot wrote.

# %%
shown = next(i for i, row in enumerate(rows) if row.distance == 3 and fact_of(row))
seen = traced_answer(params, rows[shown], cfg=cfg, tokenizer=tokenizer, answer_len=1)
texts = pieces(tokenizer, rows[shown].prompt)
print("facts:", " ".join(rows[shown].example.facts))
print(rows[shown].example.question, "->", seen.text, f"(with probability {seen.probs.max():.3f}); "
      f"slots of {people[who[shown]]}: {owner[people[who[shown]]]} (the pictures count from 1)")
assert seen.text == rows[shown].example.answer

# %%
if lesson.plt:
    figure, axis = lesson.plt.subplots(figsize=(6, 1.9))
    lesson.heat(axis, lost.T, "answers lost when a slot is emptied", signed=False, rows=list(people.values()),
                columns=range(cfg.N), limit=1)
    axis.set_xlabel("slot")
    lesson.show(figure, "15-a-slot-a-person")
    lesson.show(plots.write_map(seen.trace, rows[shown], texts, block=block), "15-what-the-slots-wrote-from")

# %% [markdown]
# ## The gates
#
# A table must be overwritten when a person moves, and kept when not. For the owner's slot, split the segments: those
# in which its person moves, and those in which the person stays.

# %%
gates = {"moves": {"input": [], "forget": []}, "stays": {"input": [], "forget": []}}
for b in range(len(rows)):
    slots = owner[people[who[b]]]
    for s in range(3):                                   # the last segment writes nothing
        told = who[b] in ids[b, s * cfg.T:(s + 1) * cfg.T]
        for name, opened in gates["moves" if told else "stays"].items():
            opened.append(getattr(places[s][block], name)[b, slots].mean())
for case, found in gates.items():
    print(f"the person {case}: input gate {np.mean(found['input']):.2f}, forget gate {np.mean(found['forget']):.2f}")
assert np.mean(gates["moves"]["forget"]) < np.mean(gates["stays"]["forget"])
assert np.mean(gates["stays"]["forget"]) > 0.8

# %%
if lesson.plt:
    lesson.show(plots.gates(seen.trace), "15-gates")
    figure, axes = lesson.plt.subplots(1, 2, figsize=(6.5, 2.3), sharey=True)
    for axis, name in zip(axes, ("input", "forget"), strict=True):
        axis.hist([gates["moves"][name], gates["stays"][name]], bins=np.linspace(0, 1, 21), density=True,
                  label=["the person moves", "stays"])
        axis.set(title=f"{name} gate of the owner's slot", yticks=[])
    axes[0].legend(fontsize=8)
    lesson.show(figure, "15-gates-of-the-owner")

# %% [markdown]
# ## Operation 3: move a single person
#
# The proof of the table. Take from another story nothing but the slot of the person that is asked for (Daniel's two).
# The answer should go along. And a control: take the slot of somebody else; the answer should stay.

# %%
follows, control = {}, {}
for name, slots in owner.items():
    asked = np.array([people[token] == name for token in who])
    moved = answers(with_slots(slots, [M[other] for M in banks]))
    stranger = next(theirs for somebody, theirs in owner.items() if somebody != name)
    left = answers(with_slots(stranger, [M[other] for M in banks]))
    follows[name], control[name] = (moved == truth[other])[asked].mean(), (left == truth)[asked].mean()
    print(f"{name:<8} slots {slots} exchanged: goes along in {follows[name]:.2f};   "
          f"slots {stranger} exchanged: stays in {control[name]:.2f}")
assert max(follows.values()) > 0.7
assert min(control.values()) > 0.9

# %% [markdown]
# ## Exercise
#
# Is there a table in every trained model, and is it the same one? `lm2-1` differs by the seed only. Repeat
# operations 1 and 2 with it.
#
# <details><summary>Answer</summary>
#
# A table again, in the same block, in other slots. Daniel, John and Mary have one each. Sandra suffers a little from
# one slot and is lost with none: she is spread over several. And this model, which answers some questions wrong from
# the start, goes a little less faithfully along with foreign banks. Count only the answers that an empty slot *spoils*.
#
# ```python
# twin = lesson.trained("lm2-1").params
# their_banks = banks_of(decoding.read(twin, ids=ids, cfg=cfg)[0])
# their_fresh = banks_of(model.first_states(twin, cfg, len(rows))[0])
# correct = answers(their_banks, twin) == truth
# follow = (answers([M[other] for M in their_banks], twin) == truth[other]).mean()
# print(f"correct {correct.mean():.3f}; follows exchanged banks in {follow:.3f}")
# lost_in = []
# for i in range(cfg.L):
#     for n in range(cfg.N):
#         emptied = [M.copy() for M in their_banks]
#         emptied[i][:, n] = their_fresh[i][:, n]
#         spoiled = correct & (answers(emptied, twin) != truth)
#         shares = {name: round(float(spoiled[who == token].mean()), 2) for token, name in people.items()}
#         if max(shares.values()) > 0.1:
#             lost_in.append((i, n))
#             print(f"block {i}, slot {n}: answers spoiled {shares}")
# assert follow > 0.9
# assert len(lost_in) >= 3
# assert {i for i, _ in lost_in} == {1}
# ```
#
# </details>
#
# ## What usually goes wrong
#
# A beautiful map is taken for an explanation. A bright spot says where attention *looked*, not that the answer
# depends on it. In the map above more slots hear Daniel's office than the two that hold him. Count it over all
# stories, then take all of these listeners out at once, since one at a time proves little, and see whether an answer
# changes:

# %%
listeners = []                                           # slots that hear the place of a fact and own nobody
for b, row in enumerate(rows):
    if fact_of(row) is not None:
        s, _, end = fact_of(row)
        listeners.append(sum(places[s][block].write[b, :, n, end].max() > 0.5 for n in others))
kept = (answers(with_slots(others, fresh)) == truth).mean()
print(f"a place is heard by {np.mean(listeners):.1f} slots beside its owner's; without all {len(others)} that own "
      f"nobody: correct {kept:.3f}")
assert np.mean(listeners) > 1
assert kept > 0.95

# %% [markdown]
# ## Three questions
#
# <details><summary>1. What does exchanging two stories' banks prove that a map of attention does not?</summary>
#
# A cause. The answer follows the bank that was put in, with everything else as it was. A map says where attention
# looked, not whether the answer depends on it.
#
# </details>
#
# <details><summary>2. No single slot is missed when Daniel is asked for. Why is he not lost, then?</summary>
#
# He is written into two slots, and either copy will do. Only emptying both shows it. To see that nothing depends on
# some parts, take them out together.
#
# </details>
#
# <details><summary>3. How was it shown that the key of a place carries the name?</summary>
#
# By putting another name into the fact and leaving the rest as it is. The same place is then heard by another
# person's slot, so what the slot finds it by must hold the name.
#
# </details>
#
# Next: [16. Causality: an audit](16_causality.py)
