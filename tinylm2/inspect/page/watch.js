"use strict";

// The page asks for what is new, keeps all points, and draws them as means of at most BINS bins.
const BINS = 300, EVERY = 1000, RIGHT = 72, LEFT = 44, TOP = 20, BOTTOM = 20;
const at = (id) => document.getElementById(id);
let points = [], version = 0, gates = [], run = null, missed = 0, rate = null, heard = null;

function draw(tag, attributes, parent, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return parent.appendChild(element);
}

// -------------------------------------------------------------------------------------------------------------- a chart

function chart(svg, curves, { ticks, scale, last, label }) {
    const width = svg.clientWidth, height = svg.clientHeight;
    const x = (step) => LEFT + (step / Math.max(1, last)) * (width - LEFT - RIGHT);
    const y = (value) => TOP + (1 - scale(value)) * (height - TOP - BOTTOM);
    svg.replaceChildren();
    svg.setAttribute("aria-label", label);
    stages().forEach(({ name, from, to }, i) => {
        if (i % 2) draw("rect", { class: "band", x: x(from), y: TOP, width: x(to) - x(from), height: height - TOP - BOTTOM }, svg);
        if (x(to) - x(from) > 9 * name.length) {
            draw("text", { x: (x(from) + x(to)) / 2, y: TOP - 6, "text-anchor": "middle" }, svg,
                x(to) - x(from) > 90 ? `stage ${name}` : name);
        }
    });
    for (const [value, text] of ticks) {
        draw("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }, svg);
        draw("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, svg, text);
    }
    draw("text", { x: LEFT, y: height - 4 }, svg, "step 0");
    draw("text", { x: width - RIGHT, y: height - 4, "text-anchor": "end" }, svg, String(last));
    const ends = [];
    for (const { values, name, colour, dash } of curves) {
        draw("path", { class: "curve", stroke: `var(--${colour})`, "stroke-dasharray": dash ?? "none",
            d: values.map(([step, value], i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("") }, svg);
        const [step, value] = values[values.length - 1];
        if (values.length === 1) draw("circle", { cx: x(step), cy: y(value), r: 3, fill: `var(--${colour})` }, svg);
        ends.push({ name, x: x(step), y: y(value) });
    }
    ends.sort((a, b) => a.y - b.y).forEach((end, i) => {                 // labels stand apart, in the order of their curves
        end.at = Math.max(end.y, i ? ends[i - 1].at + 14 : TOP);
    });
    ends.reverse().forEach((end, i) => {
        end.at = Math.min(end.at, i ? ends[i - 1].at - 14 : height - BOTTOM);
        draw("text", { class: "last", x: Math.min(end.x, width - RIGHT) + 6, y: end.at + 4 }, svg, end.name);
    });
}

function stages() {
    const found = [];
    for (const [step, name] of points) {
        const last = found[found.length - 1];
        if (last && last.name === name) last.to = step + 1;
        else found.push({ name, from: step, to: step + 1 });
    }
    return found;
}

function binned(column) {
    const size = Math.max(1, Math.ceil(points.length / BINS)), found = [];
    for (let i = 0; i < points.length; i += size) {
        const part = points.slice(i, i + size);
        found.push([part[part.length - 1][0], part.reduce((sum, point) => sum + point[column], 0) / part.length]);
    }
    return found;
}

function show() {
    if (!points.length) return;
    const last = points[points.length - 1][0] + 1, losses = binned(2), accuracies = binned(3);
    const logs = losses.map(([, loss]) => Math.log10(Math.max(loss, 1e-6)));
    const low = Math.floor(Math.min(...logs)), high = Math.max(Math.ceil(Math.max(...logs)), low + 1), ticks = [];
    for (let power = low; power <= high; power += 1) ticks.push([10 ** power, String(Number((10 ** power).toPrecision(1)))]);
    const [, loss] = losses[losses.length - 1], [, accuracy] = accuracies[accuracies.length - 1];
    chart(at("loss"), [{ values: losses, name: loss.toPrecision(2), colour: "loss" }], { ticks, last,
        scale: (value) => (Math.log10(Math.max(value, 1e-6)) - low) / (high - low),
        label: `Loss over the steps, now ${loss.toPrecision(2)}` });
    const fractions = { ticks: [[0, "0"], [0.5, "0.5"], [1, "1"]], scale: (value) => value, last };
    chart(at("accuracy"), [{ values: accuracies, name: accuracy.toFixed(2), colour: "accuracy" }],
        { ...fractions, label: `Accuracy over the steps, now ${accuracy.toFixed(2)}` });
    const names = gates.length ? gates[gates.length - 1].values.map(([name]) => name) : [];
    at("gates-figure").hidden = !names.length;
    if (names.length) {
        chart(at("gates"), names.map((name, i) => ({ name, colour: name.split(" ")[0], dash: ["none", "6 3", "2 3"][Math.floor(i / 3) % 3],
            values: gates.map(({ step, values }) => [step, values[i][1]]) })),
        { ...fractions, label: `Gates: ${gates[gates.length - 1].values.map(([name, value]) => `${name} ${value.toFixed(2)}`).join(", ")}` });
    }
}

// -------------------------------------------------------------------------------------------------------- what is new

function told(found) {
    if (found.version !== version) [points, version] = [[], found.version];
    points.length = found.from;
    points.push(...found.points);
    [gates, run] = [found.gates, found];
    const now = performance.now(), end = points[points.length - 1];
    if (heard && found.points.length && end[0] > heard.step) {
        const fresh = (1000 * (end[0] - heard.step)) / (now - heard.now);
        rate = rate === null ? fresh : 0.7 * rate + 0.3 * fresh;
    }
    if (end && (!heard || end[0] !== heard.step)) heard = { now, step: end[0] };
    at("run").textContent = `Training: ${found.run}`;
    document.title = `${found.run}: training`;
    at("about").textContent = `memory “${found.memory}”, ${found.parameters.toLocaleString("en")} parameters; stages ` +
        found.stages.map(([name, steps]) => `${name} (at most ${steps} steps)`).join(", ");
    if (end) {
        at("state").textContent = `Stage ${end[1]}, step ${end[0]}, loss ${end[2].toPrecision(3)}, accuracy ` +
            `${end[3].toFixed(2)}${rate === null ? "" : `, ${rate.toFixed(rate < 10 ? 1 : 0)} steps per second`}`;
    }
}

async function ask() {
    let wait = EVERY;
    try {
        const answer = await fetch(`/metrics?version=${version}&count=${points.length}`);
        const found = await answer.json();
        told(found);
        missed = 0;
        if (found.more) wait = 0;
        else show();
    } catch {
        missed += 1;
        wait = 3 * EVERY;
        if (missed === 2) at("state").textContent += ". The run has ended: its address does not answer any more.";
    }
    setTimeout(ask, wait);
}

addEventListener("resize", show);
ask();
