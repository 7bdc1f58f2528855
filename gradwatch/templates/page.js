"use strict";
// Words and tables. Text from a run is only ever set as text, never as markup.
let data = JSON.parse(document.getElementById("data").textContent);
const state = { finding: -1, quantity: "gradient", column: -1, filter: "" };
const byId = (id) => document.getElementById(id);

function make(tag, text, attributes, children) {
  const node = document.createElement(tag);
  if (text !== null && text !== undefined) node.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  for (const child of children || []) if (child) node.append(child);
  return node;
}

// -- numbers -------------------------------------------------------------------
function number(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value;
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e5 || size < 1e-3)) {
    const [mantissa, power] = value.toExponential(1).split("e");
    return `${mantissa.replace(/\.0$/, "")}e${Number(power)}`;
  }
  return String(Number(value.toPrecision(size >= 100 ? 4 : digits + 1)));
}
function percent(share) {
  if (share === null || share === undefined) return "–";
  if (typeof share !== "number") return share;
  return share > 0 && share < 0.001 ? "< 0.1 %" : `${number(share * 100, 1)} %`;
}
const signed = (value) => (typeof value === "number" ? (value > 0 ? "+" : "") + value.toFixed(1) : number(value));
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
function measured(value, unit) {
  if (unit === "share") return percent(typeof value === "number" ? value : null);
  return unit ? `${number(value)} ${unit}` : number(value);
}
const SIGNS = { critical: "✖", warning: "▲", note: "●" };
const RISKS = {
  safe: "safe: nothing learned is lost",
  reinitialises: "reinitialises: what these weights have learned is lost",
  reshapes: "reshapes: the network computes something else",
  advice: "advice: no code of gradwatch's can do this",
};
const VERDICTS = { helped: "helped", "no change": "did not help", hurt: "hurt", failed: "could not be tried" };
const VERDICT_CLASS = { helped: "good", hurt: "critical", failed: "warning" };

// -- the top -------------------------------------------------------------------
function showTop() {
  const { report } = data;
  const run = report.run;
  const verdict = { "unknown": "NO VERDICT" }[report.health] || report.health.replace(/[-_]/g, " ").toUpperCase();
  const worst = report.findings.length ? report.findings[0].severity : report.health === "healthy" ? "good" : "quiet";
  byId("verdict").textContent = verdict;
  byId("verdict").className = worst;
  byId("sentence").textContent = report.sentence;
  const parts = [
    report.findings.length ? plural(report.findings.length, "finding") : "no findings",
    run.name && run.name !== run.model ? `${run.name} (${run.model})` : run.model,
    plural(run.num_parameters, "parameter"), plural(run.steps, "step"),
    plural(report.overhead.probes, "probe"),
  ];
  if (run.rank !== null) parts.push(`rank ${run.rank} only`);
  byId("summary").textContent = parts.filter(Boolean).join(" · ");
  document.title = `${verdict} · ${run.name || run.model || "gradwatch"}`;
}

// -- findings and recommendations ------------------------------------------------
function showFindings() {
  const { report } = data;
  const cards = byId("cards");
  cards.replaceChildren();
  report.findings.forEach((finding, place) => cards.append(findingCard(finding, place)));
  if (!report.findings.length) cards.append(make("p", `No finding stands. ${report.next_step}`));
  else cards.append(make("p", `Next: ${report.next_step}`));
  const loose = data.order.filter((i) => answerOf(report.recommendations[i]) < 0);
  if (loose.length) cards.append(make("h3", "What may help besides"), ...loose.map((i) => recommendation(i, false)));
  if (report.cleared.length) {
    const lines = report.cleared.map((f) => make("li", `${f.code} ${f.name}: ${f.message} (steps ${f.since_step} to ${f.cleared_step})`));
    cards.append(make("details", null, {}, [make("summary", `${plural(report.cleared.length, "finding")} came and went`), make("ul", null, {}, lines)]));
  }
  byId("hint").hidden = !report.findings.length;
}

const answerOf = (one) => data.report.findings.findIndex((f) => one.answers.includes(f.code));

function findingCard(finding, place) {
  const level = finding.severity;
  const button = make("button", finding.message, { type: "button", "aria-pressed": String(state.finding === place), "data-finding": place });
  button.addEventListener("click", () => choose(state.finding === place ? -1 : place));
  const heading = make("h3", null, {}, [button]);
  const evidence = finding.evidence.map((item) => {
    const limit = item.limit === null ? " (context only)" : ` (limit ${measured(item.limit, item.unit)})`;
    const where = item.layer ? `${item.layer}, ` : "";
    const steps = item.steps[0] === item.steps[1] ? `step ${item.steps[0]}` : `steps ${item.steps[0]} to ${item.steps[1]}`;
    return make("li", `${item.quantity} ${measured(item.value, item.unit)}${limit}: ${where}${steps}${item.note ? `, ${item.note}` : ""}`);
  });
  const card = make("article", null, { class: `${level}-card${state.finding === place ? " chosen" : ""}` }, [
    make("span", `${SIGNS[level] || "●"} ${level.toUpperCase()} · ${finding.code} ${finding.name}`, { class: `tag ${level}` }),
    heading,
    make("p", `Layers: ${names(finding.layers)}`),
    finding.consequences.length ? make("ul", null, {}, finding.consequences.map((text) => make("li", `follows from it: ${text}`))) : null,
    make("p", finding.help),
    make("ul", null, { class: "quiet" }, evidence),
    make("p", `Since step ${finding.since_step}, ${finding.trend}, ${finding.confidence} confidence.`, { class: "quiet" }),
  ]);
  const own = data.order.filter((i) => answerOf(data.report.recommendations[i]) === place);
  if (own.length) card.append(make("h4", "What may help"), ...own.slice(0, 3).map((i, rank) => recommendation(i, !rank)));
  if (own.length > 3) {
    card.append(make("details", null, {}, [make("summary", `${own.length - 3} more`), ...own.slice(3).map((i) => recommendation(i, false))]));
  }
  const left = data.report.rejections.filter((one) => answerOf(one) === place);
  if (left.length) {
    card.append(make("details", null, {}, [make("summary", `${plural(left.length, "remedy").replace("remedys", "remedies")} left out`),
      make("ul", null, {}, left.map((one) => make("li", `${one.remedy}: ${one.reason}`)))]));
  }
  return card;
}

// The root module's name is empty.
function layerName(name) {
  return name || "(model)";
}
function names(raw) {
  const layers = raw.map(layerName);
  if (layers.length <= 6) return layers.join(", ");
  return `${layers.slice(0, 3).join(", ")} … ${layers.slice(-2).join(", ")} (${layers.length})`;
}

function recommendation(index, open) {
  const one = data.report.recommendations[index];
  const told = one.trial ? ` (${VERDICTS[one.trial.verdict] || one.trial.verdict})` : "";
  const parts = [
    make("summary", `[${index}] ${one.title}${told}`, { class: one.trial ? VERDICT_CLASS[one.trial.verdict] || "quiet" : "" }),
    make("p", one.why),
    make("p", `Risk: ${RISKS[one.risk] || one.risk}${one.caution ? `. ${one.caution}` : ""}`),
    one.trial ? trial(one.trial) : make("p", "Not tried.", { class: "quiet" }),
    one.code ? make("pre", one.code) : null,
    one.record ? make("p", `Record: ${one.record}`, { class: "quiet" }) : null,
    one.source ? make("p", `Source: ${one.source}`, { class: "quiet" }) : null,
  ];
  return make("details", null, open ? { open: "" } : {}, parts);
}

function trial(one) {
  const rows = [];
  const row = (name, key, write) => {
    const [old, now] = [one.before && one.before[key], one.after && one.after[key]];
    if ((old ?? null) !== null || (now ?? null) !== null) {
      rows.push(make("tr", null, {}, [make("td", name), make("td", write(old)), make("td", write(now))]));
    }
  };
  row("decades lost over depth", "decades", signed);
  row("decades lost through time", "time_decades", signed);
  row("loss of the batch", "loss", number);
  row("dead units of the worst layer", "dead_share", percent);
  row("saturated outputs of the worst layer", "saturated_share", percent);
  const last = (losses) => (losses && losses.length ? losses[losses.length - 1] : null);
  if (one.losses_before.length || one.losses_after.length) {
    rows.push(make("tr", null, {}, [make("td", `loss after ${plural(one.steps, "step")}`), make("td", number(last(one.losses_before))), make("td", number(last(one.losses_after)))]));
  }
  const head = make("tr", null, {}, ["measured", "before", "after"].map((text) => make("th", text)));
  return make("div", null, {}, [
    make("p", `Tried by ${one.how}: ${VERDICTS[one.verdict] || one.verdict}. ${one.reason}`, { class: VERDICT_CLASS[one.verdict] || "" }),
    rows.length ? make("table", null, { class: "trial" }, [head, ...rows]) : null,
  ]);
}

// -- layers and facts ------------------------------------------------------------
function showLayers() {
  const { report } = data;
  const marked = markedLayers();
  const heads = ["layer", "kind", "gradient", "vs top (decades)", "update", "dead", "saturated", "health"];
  const body = report.layers.filter((one) => one.order !== null || one.num_parameters).map((one) => {
    const cells = [layerName(one.name), one.kind, number(one.grad_norm), signed(one.grad_ratio), number(one.update_ratio),
      percent(one.dead_share), percent(one.saturated_share), one.coverage === "observed" ? one.health : `${one.coverage.replace("-", " ")}${one.reason ? `: ${one.reason}` : ""}`];
    return make("tr", null, marked.has(one.name) ? { class: "marked" } : {}, cells.map((text) => make("td", text)));
  });
  byId("layers").replaceChildren(
    make("caption", report.layers_step === null ? "No probe yet." : `At step ${report.layers_step}, in execution order. –: not measured, which is not zero.`, { class: "quiet" }),
    make("thead", null, {}, [make("tr", null, {}, heads.map((text) => make("th", text, { scope: "col" })))]),
    make("tbody", null, {}, body));
}

function showFacts() {
  const { report } = data;
  const { run, overhead, coverage } = report;
  const facts = byId("facts");
  facts.replaceChildren();
  const fact = (name, text) => text && facts.append(make("dt", name), make("dd", text));
  fact("seen", `${coverage.weight_layers_observed} of ${coverage.num_weight_layers} trainable weight layers`);
  for (const one of coverage.reasons) fact(one.coverage.replace("-", " "), `${names(one.layers)}: ${one.reason}`);
  fact("rules checked", report.checked.map((rule) => rule.code).join(", "));
  for (const rule of report.not_checked) fact(`not checked: ${rule.code}`, rule.reason);
  fact("optimizer", `${run.optimizers.join(", ") || "none seen"}${run.lr === null ? "" : `, lr ${number(run.lr)}`}`);
  if (run.loss_known) fact("loss", `${number(run.first_loss, 3)} → ${number(run.last_loss, 3)}`);
  if (run.clipped_share) fact("clipped", `${percent(run.clipped_share)} of the steps`);
  if (run.skipped_steps) fact("skipped", `${plural(run.skipped_steps, "step")} by the gradient scaler`);
  fact("cost", `${overhead.share === null ? "too few steps to give a share" : `${percent(overhead.share)} of training time`} (budget ${percent(overhead.budget)}); ${number(overhead.seconds)} s; ${plural(overhead.probes, "probe")}, ${plural(overhead.pulses, "pulse")}`);
  fact("rhythm", overhead.rhythm);
  const settings = Object.entries(report.settings).map(([name, value]) => `${name}=${JSON.stringify(value)}`);
  fact("settings", settings.join(", ") || "all defaults");
  fact("versions", `gradwatch ${run.gradwatch}, torch ${run.torch}, Python ${run.python}, ${run.device}`);
  for (const note of run.notes) fact("note", note);
  if (run.failure) fact("failure", "gradwatch met an error of its own; training went on without it");
  byId("foot").textContent = `Written ${data.written} by gradwatch ${run.gradwatch}. This file is complete in itself and loads nothing.`;
}

function markedLayers() {
  const finding = data.report.findings[state.finding];
  return new Set(finding ? [...finding.layers, ...(finding.affected || [])] : []);
}

function choose(place) {
  state.finding = place;
  document.querySelectorAll("#cards article").forEach((card) => {
    const button = card.querySelector("button[data-finding]");
    const on = Number(button.dataset.finding) === place;
    button.setAttribute("aria-pressed", String(on));
    card.classList.toggle("chosen", on);
  });
  showLayers();
  drawAll();
}

// -- light and dark ----------------------------------------------------------------
function theme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = name === "dark" ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", `Switch to ${name === "dark" ? "light" : "dark"} colours`);
}
theme(window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
byId("theme").addEventListener("click", () => {
  theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  drawAll();
});

function showAll() {
  showTop();
  showFindings();
  showLayers();
  showFacts();
  startCharts();
}
