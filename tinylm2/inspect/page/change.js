// What the reader changes: the story, and what the memory does. Everything is computed again at every change.

const SHOWN_FACTS = 8;                                   // the others appear when they are asked for

const setting = model && { T: data.T, ids: wordIds(data), answerLen: data.answerLen, padding: data.padding, end: data.end,
  opener: data.opener, filler: data.filler };
const asTold = model && {
  sentences: data.sentences.map(([text, kind]) => ({ text, kind })), question: data.question,
  filled: data.opener !== "",
};
const copy = (from) => ({ ...from, sentences: from.sentences.map((sentence) => ({ ...sentence })) });
const isFact = ({ kind }) => kind !== "filler";
const FROZEN = operate([{ do: "freeze", block: null, from: 0 }]);

let story = model && copy(asTold);
let operations = [];
let offered = null;                                      // the place that the operations offer
let laid = null;                                         // the story laid out in segments
let untouched = null;                                    // { key, reading } of the laid story without operations

// ------------------------------------------------------------------------------------------------------- what is shown

/** A look of model.js as page.js draws it: weights as nested lists, gates averaged over the width. */
function drawable(found) {
  if (!found) return null;
  const table = (A) => range(A.rows).map((r) => [...rowOf(A, r)]);
  const means = (A) => A && table(A).map(mean);
  return { read: found.read.map(table), write: found.write && found.write.map(table), output: means(found.output),
    input: means(found.input), forget: means(found.forget) };
}

/** The answer in words, and for each of its tokens the likeliest words. That an answer ends is no news. */
function answered({ tokens, chances }, truth) {
  const said = tokens.filter((t) => t !== data.end && t !== data.padding).map((t) => data.vocabulary[t]).join(" ");
  const places = chances.filter((_, i) => tokens[i] !== data.end || tokens.length === 1).map((odds) =>
    range(odds.length).sort((a, b) => odds[b] - odds[a]).slice(0, LIKELIEST).map((i) => [data.vocabulary[i], odds[i]]));
  return { said, right: truth === null ? null : wordsOf(truth).join(" ") === said, places };
}

/** Read the story, and answer: what model.js finds, with the last segment behind the others. */
function reading(hook) {
  const { banks, looks } = readStory(model, laid.ids, laid.pad, hook);
  const said = answer(model, laid.ids, banks, { ...setting, pad: laid.pad }, hook);
  return { ...said, looks: [...looks, said.looks] };
}

/** The right answer is known as long as the same facts are told in the same order and the question is the same. */
function knownTruth() {
  const facts = (of) => of.sentences.filter(isFact).map(({ text }) => wordsOf(text).join(" ")).filter((text) => text);
  const unchanged = facts(story).join("|") === facts(asTold).join("|") && same(story.question, asTold.question);
  return unchanged ? data.truth : null;
}

/** Compute what is shown from the story and the operations. -> whether the story can be read */
function compute() {
  const found = layOut(story, setting);
  drawProblem(found);
  if (found.problem) return false;
  laid = found;
  const truth = knownTruth(), key = `${laid.pad} ${laid.ids}`;
  if (untouched?.key !== key) untouched = { key, reading: reading() };
  const now = operations.length ? reading(operate(operations)) : untouched.reading;
  const frozen = answer(model, laid.ids, firstBanks(model), { ...setting, pad: laid.pad }, FROZEN);
  const spans = (wanted) => laid.spans.filter((_, i) => wanted(story.sentences[i]));
  const supports = truth !== null || data.truth === null ? ({ kind }) => kind === "support" : () => false;
  const looks = new Map(), frozenLooks = [];
  shown = {
    S: laid.S, pad: laid.pad, asked: laid.asked, unknown: laid.unknown, support: spans(supports),
    facts: spans((sentence) => isFact(sentence) && !supports(sentence)),
    words: laid.ids.map((id, t) => (t < laid.pad ? "" : data.vocabulary[id])),
    look: (s, block) => {
      if (!looks.has(now.looks[s][block])) looks.set(now.looks[s][block], drawable(now.looks[s][block]));
      return looks.get(now.looks[s][block]);
    },
    frozen: (s, block) => (frozenLooks[s] ??= (s === laid.S - 1 ? frozen.looks : frozenSegment(s)).map((found) =>
      drawable(found)?.read))[block],
    truth: truth !== null ? `The story's own answer: ${truth}.`
      : data.truth !== null ? "You changed the story, so its right answer is not known here." : "",
    answers: [
      [operations.length ? "Operated on" : "With its memory", answered(now, truth)],
      ...(operations.length ? [["As it was", answered(untouched.reading, truth)]] : []),
      [operations.length ? "Frozen banks" : "With frozen banks", answered(frozen, truth)],
    ],
  };
  return true;
}

/** What the tokens of a segment before the last one read where the banks are frozen. */
function frozenSegment(s) {
  const ids = laid.ids.slice(s * data.T, (s + 1) * data.T);
  return segment(model, ids, firstBanks(model), { s, pad: s ? 0 : laid.pad, last: false }, FROZEN).looks;
}

/** What is shown of a recording: what Python computed, in ten-thousandths. */
function recorded() {
  const share = (x) => (Array.isArray(x) ? x.map(share) : x === null ? null : x / UNIT);
  const look = (found) => found && Object.fromEntries(Object.entries(found).map(([name, x]) => [name, share(x)]));
  const looks = data.looks.map((blocks) => blocks.map(look)), frozen = share(data.frozen);
  const said = (answer) => ({ ...answer,
    places: answer.places.map((place) => place.map(([text, chance]) => [text, share(chance)])) });
  const { S, words, pad, asked, support } = data;
  return { S, words, pad, asked, support, facts: [], unknown: [],
    look: (s, block) => looks[s][block], frozen: (s, block) => frozen[s][block],
    truth: data.truth === null ? "" : `The story's own answer: ${data.truth}.`,
    answers: [["With its memory", said(data.answer)], ["With frozen banks", said(data.frozenAnswer)]] };
}

/** After every change: compute, keep the place in the story or go to `segment`, draw. */
function changed(segment = null) {
  if (compute()) {
    at.segment = Math.min(segment ?? at.segment, shown.S - 1);
    at.token = over.token = null;
    drawStory();
  }
  drawEditor();
  drawOperations();
  keepInAddress();
}

// -------------------------------------------------------------------------------------------------- changing the story

const rows = new Map();                                  // fact -> its row in the editor
let allFacts = false;

function drawProblem({ problem = "", unknown }) {
  const words = [...new Set(unknown.map(([, text]) => text))].map((text) => `“${text}”`).join(", ");
  const left = words
    && `The model does not know ${words}, and reads the story without ${words.includes(",") ? "them" : "it"}.`;
  id("problem").textContent = [problem, left].filter((text) => text).join(" ");
}

function drawEditor() {
  const facts = story.sentences.filter(isFact), visible = allFacts ? facts : facts.slice(0, SHOWN_FACTS);
  const nodes = visible.map((fact) => rows.get(fact) ?? rows.set(fact, factRow(fact)).get(fact));
  const box = id("facts");
  if (nodes.length !== box.children.length || nodes.some((node, i) => node !== box.children[i])) {
    box.replaceChildren(...nodes);
  }
  const places = laid.spans.length === story.sentences.length ? laid.spans : null;
  visible.forEach((fact, i) => {
    const span = places?.[story.sentences.indexOf(fact)];
    nodes[i].querySelector("output").textContent = span ? `segment ${segmentOf(span, data.T) + 1}` : "";
    const input = nodes[i].querySelector("input");
    if (input !== document.activeElement) input.value = fact.text;
  });
  id("more-facts").hidden = facts.length <= SHOWN_FACTS;
  id("more-facts").textContent = allFacts ? "Fewer facts" : `All ${facts.length} facts`;
  id("more-facts").setAttribute("aria-expanded", allFacts);
  if (id("question") !== document.activeElement) id("question").value = story.question;
  if (id("text") !== document.activeElement) id("text").value = story.sentences.map(({ text }) => text).join("\n");
  id("length").textContent = `${laid.S} segment${laid.S > 1 ? "s" : ""}`;
  id("shorter").disabled = story.sentences.every(isFact);
  id("longer").disabled = laid.S >= LONGEST || !data.filler.length;
  id("reset").disabled = !storyChanged() && !operations.length;
}

/** The row of one fact: its text, where it ends, and buttons to move or to remove it. */
function factRow(fact) {
  const input = element("input", { "aria-label": "Fact", autocomplete: "off", spellcheck: false });
  input.oninput = () => {
    fact.text = input.value;
    changed(placeOf(fact));
  };
  const move = (by, text, label) => element("button", { type: "button", "aria-label": label, title: label,
    onclick: (event) => {
      if (layOut(story, setting).problem) return;
      moveSentence(story, story.sentences.indexOf(fact), by, setting);
      changed(placeOf(fact));
      event.target.focus();
    } }, text);
  const remove = element("button", { type: "button", "aria-label": "Remove this fact", title: "Remove this fact",
    onclick: () => {
      story.sentences.splice(story.sentences.indexOf(fact), 1);
      changed();
    } }, "×");
  return element("div", { className: "row" }, input, element("output"),
    move(-1, "←", "Move to an earlier segment"), move(1, "→", "Move to a later segment"), remove);
}

/** The segment where a fact ends, null where the story cannot be read. */
function placeOf(fact) {
  const { spans } = layOut(story, setting);
  return spans ? segmentOf(spans[story.sentences.indexOf(fact)], data.T) : null;
}

/** The whole text as sentences. One that has only words of the filler is filler. */
function fromText(whole) {
  const told = asTold.sentences, texts = (kind) => told.filter((s) => s.kind === kind).map(({ text }) => text);
  const words = new Set([...data.filler, ...texts("filler")].flatMap(wordsOf));
  const kind = (text) => (texts("support").some((fact) => same(fact, text)) ? "support"
    : wordsOf(text).every((one) => words.has(one)) ? "filler" : "fact");
  story.sentences = sentencesOf(whole).map((text) => ({ text, kind: kind(text) }));
}

const storyChanged = () => JSON.stringify(story) !== JSON.stringify(asTold);

// ----------------------------------------------------------------------------------------------------------- operating

function drawOperations() {
  const name = ({ block }) => (block === null ? "every block" : `block ${block + 1}`);
  const said = {
    off: (o) => `Slot ${o.slot + 1} of ${name(o)} is off: nobody reads it.`,
    swap: (o) => `Slots ${o.slot + 1} and ${o.other + 1} of ${name(o)} change places before segment ${o.from + 1}.`,
    freeze: (o) => `Nothing is written in ${name(o)} from segment ${o.from + 1} on.`,
    gate: (o) => `The ${o.name} gate of ${name(o)} is held ${o.value ? "open" : "shut"}.`,
  };
  id("operations").replaceChildren(...operations.map((o) => element("li", {}, element("span", {}, said[o.do](o)),
    element("button", { type: "button", "aria-label": `Undo: ${said[o.do](o)}`, onclick: () => {
      operations = operations.filter((other) => other !== o);
      changed();
    } }, "Undo"))));
  for (const select of [id("op-swap-from"), id("op-freeze-from")]) {
    while (select.options.length > shown.S) select.lastChild.remove();
    while (select.options.length < shown.S) select.append(element("option", {}, String(select.options.length + 1)));
  }
  offered = null;
  offer();
  id("operate-note").textContent = operations.length
    ? "The maps, the gates and the slots show the memory after your operations." : "";
}

/** The operations offer the block, the slot and the segment that the reader looks at. */
function offer() {
  if (!model || !remembering.length) return;
  const place = [at.block, at.slot, at.segment].join();
  if (place === offered) return;
  offered = place;
  if (remembering.includes(at.block)) id("op-block").selectedIndex = 1 + remembering.indexOf(at.block);
  for (const name of ["op-swap-from", "op-freeze-from"]) id(name).selectedIndex = at.segment;
  if (at.slot === null) return;
  id("op-off-slot").selectedIndex = id("op-swap-slot").selectedIndex = at.slot;
  if (id("op-swap-other").selectedIndex === at.slot) id("op-swap-other").selectedIndex = (at.slot + 1) % data.N;
}

function addOperation(operation) {
  const block = id("op-block").selectedIndex;
  const made = { ...operation, block: block ? remembering[block - 1] : null };
  if (made.slot !== undefined && made.slot === made.other) return;
  operations = operations.filter((o) => JSON.stringify(o) !== JSON.stringify(made)
    && !(o.do === "gate" && made.do === "gate" && o.name === made.name && o.block === made.block));
  operations.push(made);
  changed();
}

function prepareOperations() {
  const fill = (name, texts, chosen) => {
    id(name).replaceChildren(...texts.map((text) => element("option", {}, text)));
    id(name).selectedIndex = chosen;
  };
  const slots = range(data.N).map((n) => `${n + 1}`), index = (name) => id(name).selectedIndex;
  fill("op-block", ["every block", ...remembering.map((block) => `block ${block + 1}`)], 0);
  fill("op-off-slot", slots, 0);
  fill("op-swap-slot", slots, 0);
  fill("op-swap-other", slots, Math.min(1, data.N - 1));
  fill("op-gate-name", GATES.map((name) => `${name} gate`), 0);
  fill("op-gate-value", ["open", "shut"], 1);
  const made = {
    "op-off": () => ({ do: "off", slot: index("op-off-slot") }),
    "op-swap": () => ({ do: "swap", slot: index("op-swap-slot"), other: index("op-swap-other"),
      from: index("op-swap-from") }),
    "op-freeze": () => ({ do: "freeze", from: index("op-freeze-from") }),
    "op-gate": () => ({ do: "gate", name: GATES[index("op-gate-name")], value: index("op-gate-value") ? 0 : 1 }),
  };
  for (const [name, make] of Object.entries(made)) id(name).onclick = () => addOperation(make());
}

// ------------------------------------------------------------------------------------------------------------ the link

const linkNow = () => toLink(storyChanged() ? story : null, operations, at);
let addressTimer = null;

/** Keep the story in the address of the page, so that going back, reloading and sharing keep it, too. */
function keepInAddress() {
  clearTimeout(addressTimer);
  addressTimer = setTimeout(() => {
    const hash = storyChanged() || operations.length ? `#${linkNow()}` : "";
    if (hash !== location.hash) history.replaceState(null, "", hash || location.pathname + location.search);
  }, 400);
}

/** Take over what the address holds. */
function openLink() {
  const found = fromLink(location.hash.slice(1), { ...data, L: data.L });
  story = found.story ?? copy(asTold);
  const known = new Map(asTold.sentences.map(({ text, kind }) => [text, kind]));
  for (const sentence of story.sentences) if (isFact(sentence)) sentence.kind = known.get(sentence.text) ?? "fact";
  operations = found.operations.filter(({ block }) => block === null || remembering.includes(block));
  for (const [name, place] of Object.entries(found.at)) if (place !== null) at[name] = place;
  if (found.at.segment === null) at.segment = null;
}

async function copyLink() {
  const link = `${location.href.split("#")[0]}#${linkNow()}`;
  id("link-text").value = link;
  id("link-field").hidden = false;
  id("link-text").select();
  try {
    await navigator.clipboard.writeText(link);
    id("link").textContent = "Copied";
  } catch {
    id("link").textContent = "Copy it from below";
  }
  setTimeout(() => { id("link").textContent = "Copy a link to this"; }, 2000);
}

// ----------------------------------------------------------------------------------------------------- the first steps

/** The head and the slot of this block that carry most from a fact to the question, or null. */
function carrier() {
  const segment = tellingSegment(), last = shown.S - 1;
  if (segment === null || segment === last || !remembering.length) return null;
  const write = look(segment).write, reads = look(last).read, from = segment * data.T;
  if (!write) return null;
  const needed = range(data.T).filter((t) => isSupport(from + t));
  const gathered = (map, slot) => needed.reduce((total, t) => total + map[slot][t], 0);
  const wrote = range(data.N).map((slot) => Math.max(...write.map((map) => gathered(map, slot))));
  const asking = range(end(last) - last * data.T).filter((t) => last * data.T + t >= shown.asked);
  const candidates = range(data.H).flatMap((head) => range(data.N).flatMap((slot) => asking.map((t) => ({ slot, head, t,
    token: last * data.T + t, read: reads[head][t][slot],
    score: reads[head][t][slot] * wrote[slot] }))));
  const best = candidates.reduce((a, b) => (b.score > a.score ? b : a));
  const shares = write.map((map) => gathered(map, best.slot));
  return { ...best, segment, last, writer: shares.indexOf(Math.max(...shares)) };
}

/** The segment that tells the (first) fact that the answer needs; null where it is not known. */
const tellingSegment = () => (shown.support.length ? segmentOf(shown.support[0], data.T) : null);

/** The steps: what to look at, and a button that goes there. */
function steps() {
  const best = carrier();
  if (!best) return [];
  const slot = best.slot + 1, [from, to] = shown.support[0];
  const fact = range(to - from).map((i) => word(from + i)).join(" ");
  return [
    { text: `Segment ${best.segment + 1} tells the fact that the answer needs: “${fact}”. Slot ${slot} of block `
        + `${at.block + 1} gathers from it: the words that it writes from turn orange.`, show: `Hold slot ${slot}`,
      go: () => visit(best.segment, { head: best.writer, slot: best.slot }) },
    { text: `The question stands in segment ${best.last + 1}, and the fact is out of sight there. Its word `
        + `“${word(best.token)}” reads slot ${slot} (${three(best.read)}): that is how the fact comes back.`,
      show: "Go to the question", go: () => visit(best.last, { head: best.head, slot: best.slot, token: best.token }) },
    ...(model ? [{ text: "Now change something: switch off the slots that hold the fact, move the fact, or ask about "
      + "someone else. The answer follows at once.", show: "Switch the fact off", go: switchOff }] : []),
  ];
}

/** Switch off slots of this block until the answer is another one: each time the slot that the answer needs most. */
function switchOff() {
  operations = [];
  compute();
  const before = untouched.reading, setup = { ...setting, pad: laid.pad, answerLen: 1 };
  let now = before;
  while (operations.length < data.N && now.tokens.join() === before.tokens.join()) {
    const { banks } = readStory(model, laid.ids, laid.pad, operate(operations));
    const without = range(data.N).filter((slot) => !operations.some((o) => o.slot === slot)).map((slot) => {
      const tried = [...operations, { do: "off", block: at.block, slot }];
      return { tried, chance: answer(model, laid.ids, banks, setup, operate(tried)).chances[0][before.tokens[0]] };
    });
    operations = without.reduce((a, b) => (b.chance < a.chance ? b : a)).tried;
    now = reading(operate(operations));
  }
  const slots = operations.length === 1 ? "one slot" : `${operations.length} slots`;
  const said = now.tokens.join() === before.tokens.join() ? "the answer stays the same"
    : `the answer is “${answered(now, null).said}” instead of “${answered(before, null).said}”`;
  changed(shown.S - 1);
  id("guide-text").textContent = `Without ${slots} of block ${at.block + 1}, ${said}. Below you can undo it, `
    + "move the fact, or ask about someone else.";
}

function visit(segment, held) {
  Object.assign(at, { segment, token: null }, held);
  over.token = over.slot = null;
  drawSegment();
}

function guide(list, step = 0) {
  id("guide").hidden = step >= list.length;
  if (id("guide").hidden) return;
  id("guide-title").textContent = `What to look at first: ${step + 1} of ${list.length}`;
  id("guide-text").textContent = list[step].text;
  id("guide-show").textContent = list[step].show;
  id("guide-show").onclick = list[step].go;
  id("guide-next").hidden = step === list.length - 1;
  id("guide-next").onclick = () => {
    guide(list, step + 1);
    id("guide-show").focus();
  };
  id("guide-close").onclick = () => guide([]);
}

// --------------------------------------------------------------------------------------------------------------- start

function toggle(button, part) {
  id(button).onclick = () => {
    id(part).hidden = !id(part).hidden;
    id(button).setAttribute("aria-expanded", !id(part).hidden);
  };
}

function prepareEditor() {
  id("change-note").textContent = "Edit a fact, move it to another segment (← →), ask something else.";
  id("question").oninput = () => {
    story.question = id("question").value;
    changed(Infinity);
  };
  id("text").oninput = () => {
    fromText(id("text").value);
    changed();
  };
  id("add-fact").onclick = () => {
    const fact = { text: "", kind: "fact" };
    story.sentences.push(fact);
    allFacts ||= story.sentences.filter(isFact).length > SHOWN_FACTS;
    changed(Infinity);
    rows.get(fact).querySelector("input").focus();
  };
  id("more-facts").onclick = () => {
    allFacts = !allFacts;
    drawEditor();
  };
  for (const [name, by] of [["shorter", -1], ["longer", 1]]) {
    id(name).onclick = () => {
      lengthen(story, by, setting);
      changed();
    };
  }
  id("reset").onclick = () => {
    story = copy(asTold);
    operations = [];
    changed(tellingSegment());
  };
  id("link").onclick = copyLink;
  toggle("show-text", "whole");
  toggle("show-words", "words");
  id("words").textContent = [...setting.ids.keys()].sort().join(", ");
  addEventListener("hashchange", () => {
    openLink();
    changed(at.segment);
  });
}

function start() {
  drawFrame();
  if (model) {
    prepareEditor();
    prepareOperations();
    openLink();
    if (!compute()) {                                    // a link with a story that cannot be read
      story = copy(asTold);
      compute();
    }
  } else {
    shown = recorded();
    at.segment = null;
    id("editor").hidden = true;
    id("change-note").textContent = `${data.recorded}: it shows a recorded story, which cannot be changed here.`;
    document.querySelector(".operate").hidden = true;
  }
  if (!remembering.length) document.querySelector(".operate").hidden = true;
  const linked = at.segment !== null;
  at.segment = Math.min(at.segment ?? tellingSegment() ?? 0, shown.S - 1);
  drawStory();
  if (model) {
    drawEditor();
    drawOperations();
  }
  if (!linked) guide(steps());
  performance.mark("answered");
}

id("guide-again").onclick = () => guide(steps());
start();
