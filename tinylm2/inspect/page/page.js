// The page: what is shown of the memory, and how one moves through it.

const data = JSON.parse(document.getElementById("data").textContent);    // what explore.py wrote
const UNIT = 10000;                                      // a weight of 1 in a recording
const LIKELIEST = 5;                                     // words shown for a token of an answer
const model = data.model ? loadModel(data.model) : null; // null: the page shows a recording

// What is shown: S, words, pad, asked, spans of the facts that the answer needs (support) and of the others (facts),
// unknown words, look(s, block) and frozen(s, block) (what the memory did), and the answers.
let shown;

// Where we stand: what is chosen or held, and what the pointer is over, which goes before what is held. The last block
// with a memory comes first: what it reads is nearest to the answer.
const remembering = (model ? model.cfg.memory : data.looks[0]).flatMap((memory, block) => (memory ? [block] : []));
const states = data.states ?? [];                        // of memories without slots; place L is the segment's memory
const keeping = states.filter(({ place }) => place < data.L).map(({ place }) => place);
const at = { segment: 0, block: remembering.at(-1) ?? keeping.at(-1) ?? 0, head: 0, token: null, slot: null };
const over = { token: null, slot: null };

const id = (name) => document.getElementById(name);
const three = (weight) => weight.toFixed(3);
const TINY = 1 / UNIT;                                   // so that nothing is divided by zero
const range = (n) => Array.from({ length: n }, (_, i) => i);
const mean = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;
const word = (t) => shown.words[t] || "·";

/** An element with its properties (role and aria-* as attributes) and children; text is always set as text. */
function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/^(role|aria-)/.test(name)) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

function bar(weight, kind) {
  const track = element("i");
  track.style.setProperty("--v", weight);
  return element("span", { className: `bar ${kind}` }, track, element("span", {}, three(weight)));
}

// ------------------------------------------------------------------------------------------------------ what is shown

const look = (segment = at.segment, block = at.block) => shown.look(segment, block);
const first = (segment = at.segment) => Math.max(segment * data.T, shown.pad);
const end = (segment = at.segment) => Math.min((segment + 1) * data.T, shown.words.length);
const tokenShown = () => over.token ?? at.token;
const slotHeld = () => over.slot ?? at.slot;

/** How much of each slot a token of this segment reads; all its tokens on average where none is held. */
function reads(map, token = tokenShown()) {
  if (token !== null) return map[token - at.segment * data.T];
  const rows = map.slice(first() - at.segment * data.T, end() - at.segment * data.T);
  return range(data.N).map((n) => mean(rows.map((row) => row[n])));
}

/** The slot whose life is drawn: the held one, else the one read most. */
function slotShown() {
  if (slotHeld() !== null) return slotHeld();
  const weights = reads(look().read[at.head]);
  return weights.indexOf(Math.max(...weights));
}

const within = (spans, t) => spans.some(([start, stop]) => start <= t && t < stop);
const isSupport = (t) => within(shown.support, t);
const tells = (segment) => range(end(segment) - first(segment)).some((i) => isSupport(first(segment) + i));

// ------------------------------------------------------------------------------------------------------------- drawing

/** What stays: the choices of block and head, and the rows of the slots. */
function drawFrame() {
  id("about").textContent = data.about;
  for (const [name, count] of [["block", data.L], ["head", data.H]]) {
    id(`${name}s`).append(...range(count).map((i) => {
      const choice = { type: "button", "aria-label": `${name} ${i + 1}`, onclick: () => choose(name, i) };
      return element("button", choice, String(i + 1));
    }));
  }
  id("slots").tBodies[0].append(...range(data.N).map((n) => {
    const button = element("button", { type: "button", "aria-label": `slot ${n + 1}`, onclick: () => hold("slot", n) },
      String(n + 1));
    const row = element("tr", {}, element("th", { scope: "row" }, button), ...range(3).map(() => element("td")));
    row.onpointerenter = () => point("slot", n);
    row.onpointerleave = () => point("slot", null);
    return row;
  }));
  const slots = remembering.length > 0 || !states.length;
  document.querySelector(".card.reads").hidden = !slots;
  document.querySelectorAll(".legend .key").forEach((key) => { key.parentElement.hidden = !slots; });
}

/** A new story, or what came of an operation. */
function drawStory() {
  id("segments").replaceChildren(...range(shown.S).map((s) => {
    const asks = s === shown.S - 1;
    const kinds = [tells(s) && "a fact that the answer needs", asks && "the question"].filter(Boolean);
    const button = element("button", { type: "button", onclick: () => go(s) }, String(s + 1));
    button.classList.toggle("told", tells(s));
    button.classList.toggle("asked", asks);
    button.setAttribute("aria-label", [`Segment ${s + 1}`, ...kinds].join(": "));
    return button;
  }));
  drawAnswers();
  drawSegment();
}

function drawAnswers() {
  id("truth").textContent = shown.truth;
  const verdict = ({ right }) => (right === null ? "" : right ? "✓ right" : "✗ wrong");
  id("answers").replaceChildren(...shown.answers.map(([title, answer]) =>
    element("div", {}, element("h3", {}, title),
      element("p", { className: "said" }, answer.said || "(nothing)", " ", element("small", {}, verdict(answer))),
      ...answer.places.map((place) => element("ol", {}, ...place.map(([text, chance]) =>
        element("li", {}, element("span", { title: text }, text), bar(chance, "read"))))))));
  const [, now] = shown.answers[0], [best] = now.places[0] ?? [];
  id("said").replaceChildren("Answer ", element("b", {}, now.said || "(nothing)"), best ? ` ${three(best[1])} ` : " ",
    verdict(now));
}

function drawSegment() {
  id("where").textContent = `Segment ${at.segment + 1} of ${shown.S}`;
  id("back").disabled = at.segment === 0;
  id("next").disabled = at.segment === shown.S - 1;
  [...id("segments").children].forEach((button, s) =>
    s === at.segment ? button.setAttribute("aria-current", "step") : button.removeAttribute("aria-current"));
  const tokens = range(end() - first()).map((i) => {
    const t = first() + i;
    const button = element("button", { type: "button", className: "token", onclick: () => hold("token", t) }, word(t));
    button.classList.toggle("support", isSupport(t));
    button.classList.toggle("fact", within(shown.facts, t));
    button.classList.toggle("question", t >= shown.asked);
    button.onpointerenter = (event) => event.pointerType === "mouse" && point("token", t);
    button.onpointerleave = () => point("token", null);
    return button;
  });
  const left = (t) => shown.unknown.filter(([place]) => place === t).flatMap(([, text]) =>
    [element("span", { className: "unknown", title: "The model does not know this word" }, text), " "]);
  id("tokens").replaceChildren(...tokens.flatMap((token, i) => [...left(first() + i), token, " "]),
    ...(at.segment === shown.S - 1 ? left(end()) : []));
  drawLook();
}

/** All that depends on block, head, token and slot. */
function drawLook() {
  for (const name of ["block", "head"]) {
    [...id(`${name}s`).querySelectorAll("button")].forEach((button, i) =>
      button.setAttribute("aria-pressed", i === at[name]));
  }
  const memory = look() !== null;
  for (const part of ["slots", "life"]) id(part).hidden = !memory;
  drawStates();
  offer();
  drawTokens();
  drawStrips();
  if (memory) {
    drawSlots();
    drawLife();
  } else {
    id("slots-note").textContent = id("life-note").textContent = `Block ${at.block + 1} has no memory.`;
    id("life-title").textContent = "Through the story";
  }
}

function drawTokens() {
  const slot = slotHeld(), here = look(), origin = at.segment * data.T;
  const wrote = slot !== null && here && here.write ? here.write[at.head][slot] : null;
  const read = slot !== null && here ? here.read[at.head].map((row) => row[slot]) : null;
  const most = wrote && Math.max(TINY, ...wrote);
  id("tokens").querySelectorAll(".token").forEach((button, i) => {
    const t = first() + i - origin;
    button.setAttribute("aria-pressed", first() + i === at.token);
    button.style.setProperty("--wrote", wrote ? wrote[t] / most : 0);
    button.style.setProperty("--reads", read ? read[t] : 0);
  });
  id("status").textContent = slot === null ? hint() : told(slot, wrote);
}

function hint() {
  const token = tokenShown();
  if (!remembering.length) return "";
  if (token === null) {
    return "Point at a word to see which slots it reads, or at a slot to see from which words it wrote.";
  }
  if (!look()) return "";
  return `“${word(token)}” reads ` + strongest(reads(look().read[at.head]), (n) => `slot ${n + 1}`);
}

function told(slot, wrote) {
  if (!look()) return "";
  if (!wrote) return `Slot ${slot + 1} writes nothing here: after the last segment nobody would read it.`;
  return `Slot ${slot + 1} wrote from ` + strongest(wrote, (t) => `“${word(at.segment * data.T + t)}”`);
}

/** The four largest weights in words. */
function strongest(weights, name) {
  const order = range(weights.length).sort((a, b) => weights[b] - weights[a]);
  return order.slice(0, 4).map((i) => `${name(i)} ${three(weights[i])}`).join(", ") + ".";
}

function drawStrips() {
  const token = tokenShown();
  const who = token === null ? "the words of this segment read, on average" : `“${word(token)}” reads`;
  id("reads-title").textContent = `What ${who}`;
  const strip = (weights, name, most) => {
    const cells = weights.map((weight, n) => {
      const cell = element("i", { title: `slot ${n + 1}: ${three(weight)}` });
      cell.style.setProperty("--v", weight / most);
      cell.classList.toggle("held", n === slotHeld());
      return cell;
    });
    const best = weights.indexOf(Math.max(...weights));
    const label = `${name}: most of slot ${best + 1}, ${three(weights[best])}`;
    return element("div", { className: "strip", role: "img", "aria-label": label }, ...cells);
  };
  const rows = [];
  remembering.forEach((block) => range(data.H).forEach((head) => {
    const pair = [reads(look(at.segment, block).read[head]), reads(shown.frozen(at.segment, block)[head])];
    const most = Math.max(TINY, ...pair.flat());
    const button = element("button", { type: "button", onclick: () => choose("block", block, "head", head) },
      `Block ${block + 1}, head ${head + 1}`);
    button.setAttribute("aria-pressed", block === at.block && head === at.head);
    rows.push(button, strip(pair[0], "as it read", most), strip(pair[1], "banks frozen", most));
  }));
  const heads = ["", "as it read", "banks frozen"].map((text) => element("span", { className: "head" }, text));
  id("reads").replaceChildren(rows.length ? element("div", { className: "strips" }, ...heads, ...rows)
    : element("p", { className: "note" }, "This model has no memory."));
  const gates = look() && look().output;
  id("gate").textContent = gates ? `Output gate of block ${at.block + 1}: ${three(outputGate(gates))} open.` : "";
}

function outputGate(gates) {
  const origin = at.segment * data.T;
  return tokenShown() !== null ? gates[tokenShown() - origin] : mean(gates.slice(first() - origin, end() - origin));
}

function drawSlots() {
  const { read, input, forget } = look(), token = tokenShown();
  const weights = reads(read[at.head]);
  id("slots-note").textContent = `Block ${at.block + 1}, head ${at.head + 1}; read by `
    + (token === null ? "the segment’s words on average." : `“${word(token)}”.`)
    + (input ? "" : " Nothing is written here.");
  [...id("slots").tBodies[0].rows].forEach((row, n) => {
    row.querySelector("button").setAttribute("aria-pressed", n === at.slot);
    row.cells[1].replaceChildren(bar(weights[n], "read"));
    row.cells[2].replaceChildren(input ? bar(input[n], "gate") : "–");
    row.cells[3].replaceChildren(forget ? bar(forget[n], "stay") : "–");
  });
}

const stateShown = () => states.filter(({ place }) => place === at.block || place === data.L);

/** A memory without slots: the sizes of its rows in every segment, and how much each segment changed them. */
function drawStates() {
  const list = stateShown();
  document.querySelector(".state").hidden = !list.length;
  for (const part of [".slots", ".life"]) document.querySelector(part).hidden = list.length > 0;
  if (!list.length) return;
  const name = list[0].place === data.L ? "The memory of the segments" : `The memory of block ${at.block + 1}`;
  if (id("state-title").textContent !== name) {
    id("state-title").textContent = name;
    id("state-note").textContent = "This memory has no slots to point at. Each line shows the state that a segment read, "
      + "from its first row to its last: the stronger the blue, the larger the row (root mean square)."
      + (list.some(({ change }) => change.some((share) => share !== null))
        ? " Behind it, by which share the segment changed the state." : " The state grows with the story.");
    id("states").replaceChildren(...list.map(stateMap));
  }
  id("states").querySelectorAll(".map").forEach((map) => [...map.querySelectorAll(".strip")].forEach((strip, s) =>
    strip.classList.toggle("now", s === at.segment)));
}

/** One array of a state, a line per segment. */
function stateMap({ name, size, rows, change }) {
  const most = Math.max(1, ...rows.flat()), cells = Math.max(1, ...rows.map((row) => row.length));
  const grows = change.every((share) => share === null);
  const lines = rows.flatMap((row, s) => {
    const strip = element("div", { className: "strip", title: `segment ${s + 1}`, role: "img", onclick: () => go(s),
      "aria-label": `segment ${s + 1}: ${row.length ? `rows of ${three(mean(row) / UNIT)} on average` : "nothing yet"}`,
    }, ...row.map((rms) => {
      const cell = element("i");
      cell.style.setProperty("--v", rms / most);
      return cell;
    }));
    strip.style.setProperty("--cells", cells);
    strip.classList.toggle("dense", cells > 32);
    const share = change[s] === null ? grows ? "" : "–" : three(change[s] / UNIT);
    return [element("span", {}, String(s + 1)), strip, element("span", {}, share)];
  });
  const shared = size > 1 ? `, ${size} rows a cell` : "", heads = ["segment", "", grows ? "" : "changed by"];
  return element("div", { className: "map" }, element("h3", {}, `${name}: at most ${three(most / UNIT)}${shared}`),
    element("div", { className: "times" }, ...heads.map((head) => element("span", {}, head)), ...lines));
}

/** One slot through all segments: what came in, what stayed, and how much the token that read it most read of it. */
function drawLife() {
  const slot = slotShown();
  const most = (s) => {
    const rows = look(s).read[at.head].slice(first(s) - s * data.T, end(s) - s * data.T);
    return Math.max(...rows.map((row) => row[slot]));
  };
  const lines = [
    ["input gate", "gate", (s) => look(s).input && look(s).input[slot]],
    ["forget gate", "stay", (s) => look(s).forget && look(s).forget[slot]],
    ["read at most", "read", most],
  ];
  id("life-title").textContent = `Slot ${slot + 1} through the story`;
  id("life").replaceChildren(element("div", { className: "lives" }, ...lines.flatMap(([name, kind, value]) => {
    const values = range(shown.S).map(value);
    const columns = values.map((v, s) => {
      const column = element("i", { title: `segment ${s + 1}: ${v === null ? "nothing written" : three(v)}`,
        onclick: () => go(s) });
      column.style.setProperty("--v", v ?? 0);
      column.classList.toggle("none", v === null);
      column.classList.toggle("now", s === at.segment);
      return column;
    });
    const label = `${name}: ${values.map((v) => (v === null ? "none" : three(v))).join(", ")}`;
    return [element("span", {}, name),
      element("div", { className: `columns ${kind}`, role: "img", "aria-label": label }, ...columns)];
  }), element("span", {}, "segment"), numbers()));
  const now = lines.map(([name, , value]) => [name, value(at.segment)]).filter(([, v]) => v !== null);
  id("life-note").textContent = `In segment ${at.segment + 1}: `
    + now.map(([name, v]) => `${name} ${three(v)}`).join(", ")
    + (slotHeld() === null ? ". The slot that is read most here." : ".");
}

/** The numbers of the segments under their columns; of more than eight only every second, third ... */
function numbers() {
  const every = Math.ceil(shown.S / 8);
  return element("div", { className: "columns numbers" },
    ...range(shown.S).map((s) => element("span", {}, s % every ? "" : String(s + 1))));
}

// -------------------------------------------------------------------------------------------------------------- moving

function go(segment) {
  if (segment < 0 || segment >= shown.S || segment === at.segment) return;
  Object.assign(at, { segment, token: null });
  over.token = null;
  drawSegment();
}

function choose(...pairs) {
  for (let i = 0; i < pairs.length; i += 2) at[pairs[i]] = pairs[i + 1];
  drawLook();
}

/** Hold a token or a slot, or let it go when it is held already. */
function hold(kind, i) {
  at[kind] = at[kind] === i ? null : i;
  over[kind] = null;
  drawLook();
}

function point(kind, i) {
  if (over[kind] === i) return;
  over[kind] = i;
  drawLook();
}

/** The next (by = 1) or previous of n things that start at `low`; from none to the first or the last. */
function step(kind, by, low, n) {
  const place = at[kind] === null ? (by > 0 ? 0 : n - 1) : (at[kind] - low + by + n) % n;
  over[kind] = null;
  choose(kind, low + place);
}

const KEYS = {
  b: (by) => step("block", by, 0, data.L),
  h: (by) => step("head", by, 0, data.H),
  t: (by) => step("token", by, first(), end() - first()),
  s: (by) => look() && step("slot", by, 0, data.N),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || id("keys").open) return;
  if (event.target.closest?.("input, textarea, select")) return;         // these keys are typed, or choose there
  const letter = KEYS[event.key.toLowerCase()];
  if (event.key === "ArrowRight") go(at.segment + 1);
  else if (event.key === "ArrowLeft") go(at.segment - 1);
  else if (event.key === "Escape") choose("token", null, "slot", null);
  else if (event.key === "?") id("keys").showModal();
  else if (letter) letter(event.shiftKey ? -1 : 1);
  else return;
  event.preventDefault();
});
id("back").onclick = () => go(at.segment - 1);
id("next").onclick = () => go(at.segment + 1);
id("help").onclick = () => id("keys").showModal();

function theme(name) {
  document.documentElement.dataset.theme = name;
  id("theme").textContent = name === "dark" ? "Light" : "Dark";
}
id("theme").onclick = () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
theme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
