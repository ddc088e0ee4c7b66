// A story that the reader can change: its words, how it is laid out in segments, and the link that holds it.
// story = { sentences: [{ text, kind }], question, filled }, kind "filler", "fact" or "support" (a fact that the answer
// needs). filled: filler opens the story, cut to length, so that question and answer close the last segment.

const LONGEST = 64;                                      // segments; as in explore.py

/** Lower-case words, cut as tinylm2/data/tokenizer.py cuts them: letter case and punctuation are dropped. */
const wordsOf = (text) => Array.from(text, (letter) => letter.toLowerCase()).join("")
  .split(/[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}²³¹¼-¾]+/u).filter((word) => word);

/** Word -> token id. The two special tokens are no words. */
function wordIds({ vocabulary, padding, end }) {
  const ids = new Map(vocabulary.map((name, i) => [name, i]));
  for (const special of [padding, end]) ids.delete(vocabulary[special]);
  return ids;
}

/** Cut a text into sentences: they end at . ! or ? before a blank, and at the end of a line. */
const sentencesOf = (text) => text.split(/(?<=[.!?])\s+|\n/).map((part) => part.trim()).filter((part) => part);

/** Whether two texts are the same to the model. */
const same = (one, other) => wordsOf(one).join(" ") === wordsOf(other).join(" ");

/** Words to tokens, segments and places, or { problem } in words. `unknown` lists [place, word]: the words that the
 *  model does not know take no place. */
function layOut(story, { T, ids, answerLen, padding, opener, filler }) {
  const tokens = [], unknown = [];
  const add = (text) => {
    const from = tokens.length;
    for (const word of wordsOf(text)) {
      if (ids.has(word)) tokens.push(ids.get(word));
      else unknown.push([tokens.length, word]);
    }
    return [from, tokens.length];
  };
  const spans = story.sentences.map(({ text }) => add(text)), [asked] = add(story.question);
  if (tokens.length === asked) return { problem: "Ask a question in words that the model knows.", unknown };
  if (tokens.length - asked + answerLen > T) {
    return { problem: `The question is too long: at most ${T - answerLen} words fit into its segment.`, unknown };
  }
  const S = Math.ceil((tokens.length + answerLen) / T), missing = S * T - answerLen - tokens.length;
  if (S > LONGEST) return { problem: `The story is too long: at most ${LONGEST} segments.`, unknown };
  const opening = !story.filled || !missing ? []
    : [...filler, opener].flatMap(wordsOf).filter((word) => ids.has(word)).slice(-missing).map((word) => ids.get(word));
  const pad = missing - opening.length;
  return {
    ids: [...Array(pad).fill(padding), ...opening, ...tokens], pad, S, asked: asked + missing,
    spans: spans.map(([from, to]) => [from + missing, to + missing]),
    unknown: unknown.map(([place, word]) => [place + missing, word]),
  };
}

// -------------------------------------------------------------------------------------------------- moving and filling

const segmentOf = ([from, to], T) => Math.floor((Math.max(from + 1, to) - 1) / T);

/** Move sentence i until it ends in an earlier (by = -1) or a later segment, or stands at the end. -> its new place */
function moveSentence(story, i, by, setting) {
  const segmentAt = (place) => segmentOf(layOut(story, setting).spans[place], setting.T), start = segmentAt(i);
  const list = story.sentences;
  while (i + by >= 0 && i + by < list.length) {
    [list[i], list[i + by]] = [list[i + by], list[i]];
    i += by;
    if (segmentAt(i) !== start) break;
  }
  return i;
}

/** Make the story one segment longer (by = 1), with filler before the question, or shorter, with less of it. */
function lengthen(story, by, setting) {
  const segments = () => layOut(story, setting).S ?? Infinity, wanted = segments() + by, list = story.sentences;
  if (wanted === Infinity) return;                       // the story cannot be read as it is
  while (by > 0) {
    list.push({ text: setting.filler[list.length % setting.filler.length], kind: "filler" });
    if (segments() > wanted) {
      list.pop();
      break;
    }
  }
  for (let i = list.length - 1; i >= 0 && segments() > wanted; i--) if (list[i].kind === "filler") list.splice(i, 1);
  story.filled = list.some(({ kind }) => kind === "filler");
}

// ------------------------------------------------------------------------------------------------------------ the link

// The words of a link: what is done, in which block, and numbers that count from 1. "all" is every block.
const GATES = ["output", "input", "forget"];
const LINKED = [
  [/^off\.(all|\d+)\.(\d+)$/, (block, slot) => ({ do: "off", block, slot })],
  [/^swap\.(all|\d+)\.(\d+)\.(\d+)\.(\d+)$/, (block, slot, other, from) => ({ do: "swap", block, slot, other, from })],
  [/^freeze\.(all|\d+)\.(\d+)$/, (block, from) => ({ do: "freeze", block, from })],
  [/^gate\.(all|\d+)\.(output|input|forget)\.(open|shut)$/,
    (block, name, state) => ({ do: "gate", block, name, value: state === "open" ? 1 : 0 })],
];
const count = (part) => (part === "all" ? null : /^\d+$/.test(part) ? Number(part) - 1 : part);

function operationToLink(o) {
  const block = o.block === null ? "all" : o.block + 1;
  if (o.do === "gate") return `gate.${block}.${o.name}.${o.value ? "open" : "shut"}`;
  return [o.do, block, ...[o.slot, o.other, o.from].filter((n) => n !== undefined).map((n) => n + 1)].join(".");
}

/** The operation that a part of a link names; null where it names none of this model. */
function operationFromLink(part, { L, N }) {
  for (const [form, make] of LINKED) {
    const found = part.match(form);
    if (!found) continue;
    const o = make(...found.slice(1).map(count));
    const fits = (n, end) => n === undefined || n === null || (n >= 0 && n < end);
    return fits(o.block, L) && fits(o.slot, N) && fits(o.other, N) && fits(o.from, LONGEST) ? o : null;
  }
  return null;
}

/** What stands behind # in a link. A line is a sentence, with ~ before filler. */
function toLink(story, operations, { segment, block, head, slot }) {
  const link = new URLSearchParams();
  if (story) {
    link.set("story", story.sentences.map(({ text, kind }) => (kind === "filler" ? "~" : "") + text).join("\n"));
    link.set("ask", story.question);
    link.set("fill", story.filled ? "yes" : "no");
  }
  if (operations.length) link.set("do", operations.map(operationToLink).join("_"));
  link.set("at", [segment, block, head, ...(slot === null ? [] : [slot])].map((n) => n + 1).join("."));
  return link.toString();
}

/** { story or null, operations, at } of a link; what makes no sense in it is left out. */
function fromLink(text, size) {
  const link = new URLSearchParams(text), lines = (link.get("story") ?? "").slice(0, 100000).split("\n");
  const story = link.has("story") && link.has("ask") ? {
    sentences: lines.map((line) => line.trim()).filter((line) => line && line !== "~").map((line) =>
      (line.startsWith("~") ? { text: line.slice(1), kind: "filler" } : { text: line, kind: "fact" })),
    question: link.get("ask").slice(0, 1000), filled: link.get("fill") === "yes",
  } : null;
  const operations = (link.get("do") ?? "").split("_").slice(0, 100).map((part) => operationFromLink(part, size))
    .filter((o) => o);
  const [segment, block, head, slot = null] = (link.get("at") ?? "").split(".").map(count);
  const whole = (n, end) => (Number.isInteger(n) && n >= 0 && n < end ? n : null);
  return { story, operations, at: { segment: whole(segment, LONGEST), block: whole(block, size.L),
    head: whole(head, size.H), slot: whole(slot, size.N) } };
}
