// Pictures, drawn by Apache ECharts. Cells are 16-bit: thousandths of a decade, or
// hundredths of a percent; three values are words.
const MISSING = -32768, ZERO = -32767, NOT_FINITE = -32766;
const MAX_ACROSS = 200, MAX_DOWN = 120;
const charts = {};
const unpacked = new Map();

// Every browser that unpacks knows how to inflate since 2023.
async function unpack(text) {
  if (unpacked.has(text)) return;
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  unpacked.set(text, new Int16Array(await new Response(stream).arrayBuffer()));
}
async function unpackAll() {
  const { series } = data;
  if (!series) return;
  const packed = [...Object.values(series.grids), ...series.times.map((one) => one.cells)];
  if (series.trunk) packed.push(series.trunk.cells);
  await Promise.all(packed.map(unpack));
}
const cells = (text) => unpacked.get(text);

// -- quantities ----------------------------------------------------------------------
const QUANTITIES = {
  gradient: { name: "Gradient", unit: "decades against the top of the trunk", share: false },
  update: { name: "Update ratio", unit: "applied update over weight", share: false },
  weight: { name: "Weight norm", unit: "norm of the layer's parameters", share: false },
  dead: { name: "Dead units", unit: "share of units never active", share: true },
  saturated: { name: "Saturated", unit: "share of outputs on the flat part", share: true },
};
function inWords(cell, quantity) {
  if (cell === MISSING) return "not measured";
  if (cell === ZERO) return "exactly 0";
  if (cell === NOT_FINITE) return "NaN or Inf";
  if (QUANTITIES[quantity].share) return percent(cell / 10000);
  if (quantity === "gradient") return `${signed(cell / 1000)} decades against the top`;
  return number(10 ** (cell / 1000));
}
// Steps of colour: pale within the limits, strong beyond. Blue and orange, and lightness
// alone, tell them apart for every kind of colour vision.
function pieces(quantity) {
  const limits = data.limits;
  const piece = (min, max, color, label) => ({ gte: min, lt: max, color, label });
  const words = [
    { value: ZERO, color: dark() ? "#000000" : "#1a1a1a", label: "exactly 0" },
    { value: NOT_FINITE, color: "#cc2fa8", label: "NaN or Inf" },
  ];
  if (quantity === "gradient") {
    const [low, high] = [-1000 * limits.vanishing_decades, 1000 * limits.exploding_decades];
    return [
      piece(high + 3000, 40000, "#7f2704", `over +${high / 1000 + 3}`), piece(high, high + 3000, "#e6821e", `exploding: over +${high / 1000}`),
      piece(500, high, "#f7dcb4", `+0.5 to +${high / 1000}`), piece(-500, 500, dark() ? "#e9e9ec" : "#ececef", "within ±0.5"),
      piece(low, -500, "#cfe0ef", `${low / 1000} to -0.5`), piece(low - 3000, low, "#4a93c9", `vanishing: under ${low / 1000}`),
      piece(-32000, low - 3000, "#08306b", `under ${low / 1000 - 3}`), ...words];
  }
  if (quantity === "update") {
    const [low, high] = [1000 * Math.log10(limits.min_update_ratio), 1000 * Math.log10(limits.max_update_ratio)];
    const middle = (low + high) / 2;
    return [piece(high, 40000, "#e6821e", `over the limit ${number(limits.max_update_ratio)}`), piece(middle, high, "#f7dcb4", `${number(10 ** (middle / 1000))} to ${number(limits.max_update_ratio)}`),
      piece(low, middle, "#ececef", `${number(limits.min_update_ratio)} to ${number(10 ** (middle / 1000))}`), piece(low - 3000, low, "#4a93c9", `under the limit ${number(limits.min_update_ratio)}`),
      piece(-32000, low - 3000, "#08306b", `under ${number(10 ** (low / 1000 - 3))}`), ...words];
  }
  if (quantity === "weight") {
    const steps = [[2000, 40000, "#00204d", "over 100"], [1000, 2000, "#31446b", "10 to 100"], [0, 1000, "#666970", "1 to 10"], [-1000, 0, "#958f78", "0.1 to 1"], [-32000, -1000, "#cbba69", "under 0.1"]];
    return [...steps.map((step) => piece(...step)), ...words];
  }
  const limit = 10000 * (quantity === "dead" ? limits.dead_unit_share : limits.saturated_share);
  return [piece(limit, 10001, "#e6821e", `over the limit ${percent(limit / 10000)}`), piece(limit / 2, limit, "#f7dcb4", `${percent(limit / 20000)} to ${percent(limit / 10000)}`),
    piece(1, limit / 2, "#dfe5ea", `under ${percent(limit / 20000)}`), piece(0, 1, "#f3f4f6", "none"), words[1]];
}

// -- shared looks ----------------------------------------------------------------------
const dark = () => document.documentElement.dataset.theme === "dark";
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const middle = (name, most = 24) => (name.length <= most ? name : `${name.slice(0, most / 2 - 1)}…${name.slice(-most / 2)}`);
const narrow = () => window.innerWidth < 640;
function look() {
  return { animation: false, backgroundColor: "transparent", textStyle: { color: css("--text"), fontFamily: "inherit" } };
}
function axis(extra) {
  return { axisLine: { lineStyle: { color: css("--quiet") } }, axisLabel: { color: css("--quiet"), hideOverlap: true }, splitLine: { lineStyle: { color: css("--line") } },
    nameTextStyle: { color: css("--quiet") }, ...extra };
}
// ECharts' own tooltips take HTML: give it a node, whose text is text.
function tip(lines) {
  const node = make("div", null, {});
  lines.forEach((line) => node.append(make("div", line)));
  return node;
}
const tooltip = (formatter, trigger = "item") => ({ trigger, confine: true, backgroundColor: css("--card"), borderColor: css("--line"), textStyle: { color: css("--text") }, formatter });
function draw(id, option, label) {
  const element = byId(id);
  byId(`f-${id}`).hidden = false;
  if (!charts[id]) charts[id] = echarts.init(element, null, { renderer: "canvas" });
  charts[id].setOption({ ...look(), ...option }, { notMerge: true });
  element.setAttribute("aria-label", label);
}

// -- layers over time --------------------------------------------------------------------
function binned(rows, columns, values, width) {
  // Of the cells that share one on the screen, the one farthest from normal is shown.
  const down = Math.ceil(rows.length / MAX_DOWN), across = Math.ceil(columns / MAX_ACROSS);
  const shown = [];
  const weight = (cell) => (cell === MISSING ? -1 : cell === NOT_FINITE ? 1e6 : cell === ZERO ? 9e5 : Math.abs(cell));
  for (let top = 0; top < rows.length; top += down) {
    for (let left = 0; left < columns; left += across) {
      let worst = MISSING, at = [rows[top], left];
      for (let r = top; r < Math.min(top + down, rows.length); r += 1) {
        for (let c = left; c < Math.min(left + across, columns); c += 1) {
          const cell = values[rows[r] * width + c];
          if (weight(cell) > weight(worst)) { worst = cell; at = [rows[r], c]; }
        }
      }
      if (worst !== MISSING) shown.push([left / across, top / down, worst, ...at]);
    }
  }
  return { shown, down, across };
}

function drawHeat() {
  const { series } = data;
  const values = cells(series.grids[state.quantity]);
  const width = series.steps.length;
  const wanted = state.filter.toLowerCase();
  const rows = [...series.layers.keys()].filter((row) => series.layers[row].toLowerCase().includes(wanted));
  const { shown, down, across } = binned(rows, width, values, width);
  const marked = markedLayers();
  const isMarked = (place) => rows.slice(place * down, (place + 1) * down).some((row) => marked.has(series.layers[row]));
  const labels = [];
  for (let place = 0; place * down < rows.length; place += 1) labels.push((isMarked(place) ? "▶ " : "") + middle(layerName(series.layers[rows[place * down]]), narrow() ? 14 : 24));
  const steps = series.steps.filter((_, column) => column % across === 0);
  const kind = QUANTITIES[state.quantity];
  const colours = pieces(state.quantity);
  // The layers of the chosen finding keep their colour, the others fade.
  const lit = marked.size ? shown.map((value) => (isMarked(value[1]) ? value : { value, itemStyle: { opacity: 0.3 } })) : shown;
  draw("heat", {
    grid: { left: narrow() ? 90 : 170, right: 16, top: 12, bottom: 44 },
    xAxis: axis({ type: "category", data: steps, name: "step of the probe", nameLocation: "middle", nameGap: 26, splitLine: { show: false } }),
    yAxis: axis({ type: "category", data: labels, inverse: true, splitLine: { show: false },
      axisLabel: { color: (text) => (text.startsWith("▶") ? css("--critical") : css("--quiet")), fontWeight: "normal", hideOverlap: true } }),
    visualMap: { type: "piecewise", pieces: colours, dimension: 2, show: false },
    tooltip: tooltip((item) => tip([layerName(series.layers[item.value[3]]), `step ${series.steps[item.value[4]]}`, inWords(item.value[2], state.quantity)])),
    series: [{ type: "heatmap", data: lit, progressive: false, itemStyle: { borderWidth: 0 }, emphasis: { itemStyle: { borderColor: css("--text"), borderWidth: 1 } } }],
  }, `${kind.name} of ${rows.length} layers at ${width} probes, ${kind.unit}. The table of layers has the newest numbers.`);
  const notes = [`${kind.name}: ${kind.unit}; input side on top. No colour: not measured.`];
  if (down > 1 || across > 1) notes.push(`A cell stands for ${plural(across, "probe")} of ${plural(down, "layer")}: the one farthest from normal. Filter the layers to see more.`);
  if (series.probes > width) notes.push(`${width} of ${series.probes} probes are drawn.`);
  if (!rows.length) notes.push("No layer has this in its name.");
  byId("heat-note").textContent = notes.join(" ");
  byId("heat-legend").replaceChildren(...colours.map((piece) => {
    const swatch = make("i", null, { "aria-hidden": "true" });
    swatch.style.background = piece.color;
    return make("li", null, {}, [swatch, piece.label]);
  }));
}

// -- depth ---------------------------------------------------------------------------------
function drawDepth() {
  const { trunk, steps } = data.series;
  if (!trunk || trunk.labels.length < 2) return;
  const count = trunk.labels.length;
  const values = cells(trunk.cells);
  const profile = (column) => trunk.labels.map((_, i) => values[column * count + i]);
  const marked = markedLayers();
  const line = (name, column, color, width) => ({
    name, type: "line", color, lineStyle: { width }, connectNulls: false, symbol: (_, item) => (marked.has(trunk.layers[item.dataIndex]) ? "diamond" : "circle"),
    symbolSize: (_, item) => (marked.has(trunk.layers[item.dataIndex]) ? 13 : 5),
    data: profile(column).map((cell) => ({ value: cell > NOT_FINITE ? cell / 1000 : null, itemStyle: {} })) });
  const limits = data.limits;
  const at = state.column;
  const limit = (value, text) => ({ yAxis: value, label: { formatter: text, position: "insideEndTop", color: css("--text") } });
  const main = line(`step ${steps[at]}`, at, css("--accent"), 2.5);
  main.markLine = { silent: true, symbol: "none", lineStyle: { type: "dashed", color: css("--critical") },
    data: [limit(-limits.vanishing_decades, `vanishing: ${limits.vanishing_decades} lost`), limit(limits.exploding_decades, `exploding: ${limits.exploding_decades} gained`)] };
  draw("depth", {
    grid: { left: 56, right: 24, top: 40, bottom: 76 },
    legend: { top: 0, textStyle: { color: css("--text") } },
    xAxis: axis({ type: "category", data: trunk.labels.map((label) => middle(label, 18)), axisLabel: { rotate: 45, color: css("--quiet"), hideOverlap: true } }),
    yAxis: axis({ type: "value", name: "decades vs top", min: (range) => Math.floor(Math.min(range.min, -limits.vanishing_decades - 0.5)), max: (range) => Math.ceil(Math.max(range.max, limits.exploding_decades + 0.5)) }),
    tooltip: tooltip((items) => tip([trunk.labels[items[0].dataIndex], ...items.map((item) => `${item.seriesName}: ${inWords(profile(item.seriesIndex === 0 ? at : 0)[item.dataIndex], "gradient")}`)]), "axis"),
    series: at > 0 ? [main, line(`step ${steps[0]}`, 0, css("--quiet"), 1.2)] : [main],
  }, `Gradient along the trunk at step ${steps[at]}, from ${trunk.labels[0]} to ${trunk.labels[count - 1]}, in decades against the top.`);
  byId("at-step").textContent = steps[at];
  const broken = profile(at).filter((cell) => cell === ZERO || cell === NOT_FINITE).length;
  byId("depth-note").textContent = `Norm of the activation gradient over that at the top, input side left.${broken ? ` ${plural(broken, "point")} exactly 0 or not finite, not drawn.` : ""}${marked.size ? " Diamonds: layers of the chosen finding." : ""}${trunk.known ? "" : " The graph could not be read: module order stands in for it."}`;
}

// -- time ----------------------------------------------------------------------------------
function drawTime() {
  const { times, steps } = data.series;
  if (!times.length) return;
  const marked = markedLayers();
  const wanted = steps[state.column];
  const latest = new Map();
  for (const one of times) if (one.step <= wanted || !latest.has(`${one.layer} ${one.direction}`)) latest.set(`${one.layer} ${one.direction}`, one);
  const colors = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
  const lines = [...latest.values()].map((one, i) => ({
    name: `${one.layer}${one.direction === "reverse" ? " (reverse)" : ""}, step ${one.step}`, type: "line", color: dark() && i === 0 ? "#6cb8ea" : colors[i % 6], symbolSize: 5, lineStyle: { width: marked.has(one.layer) ? 4 : 2 },
    data: Array.from(cells(one.cells), (cell) => (cell > NOT_FINITE ? cell / 1000 : null)) }));
  const longest = Math.max(...lines.map((line) => line.data.length));
  if (lines.length) lines[0].markLine = { silent: true, symbol: "none", lineStyle: { type: "dashed", color: css("--critical") },
    data: [{ yAxis: Math.log10(data.limits.horizon_share), label: { formatter: `horizon: ${percent(data.limits.horizon_share)} left`, position: "insideEndTop", color: css("--text") } },
      { yAxis: -data.limits.vanishing_time_decades, label: { formatter: `vanishing: ${data.limits.vanishing_time_decades} lost`, position: "insideEndTop", color: css("--text") } }] };
  draw("time", {
    grid: { left: 56, right: 24, top: 40, bottom: 48 }, legend: { top: 0, type: "scroll", textStyle: { color: css("--text") } },
    xAxis: axis({ type: "category", data: Array.from({ length: longest }, (_, i) => i + 1), name: "time step, in the order of the recurrence", nameLocation: "middle", nameGap: 28 }),
    yAxis: axis({ type: "value", name: "decades vs largest", max: (range) => Math.max(0, Math.ceil(range.max)), min: (range) => Math.floor(Math.min(range.min, -data.limits.vanishing_time_decades - 0.5)) }),
    tooltip: tooltip((items) => tip([`time step ${items[0].dataIndex + 1}`, ...items.map((item) => `${item.seriesName}: ${signed(item.value)} decades`)]), "axis"),
    series: lines,
  }, `Gradient of ${plural(lines.length, "recurrent layer")} by time step, in decades against its largest.`);
  byId("time-note").textContent = "Norm of the gradient at each time step over the largest one.";
}

// -- global norm ------------------------------------------------------------------------------
function drawNorm() {
  const { pulses } = data.series;
  if (!pulses.steps.length) return;
  const points = (places, name, symbol, color, at) => ({ name, type: "scatter", symbol, symbolSize: 11, itemStyle: { color },
    data: places.map((place) => [pulses.steps[place], at(place)]).filter((point) => point[1] !== null) });
  const known = pulses.norms.filter((value) => value !== null && value > 0);
  const low = known.length ? Math.min(...known) : 1;
  const line = (name, values, color, extra) => ({ name, type: "line", showSymbol: values.length < 3, color, sampling: undefined, lineStyle: { width: 1.5 }, data: pulses.steps.map((step, i) => [step, values[i] > 0 ? values[i] : null]), ...extra });
  const series = [line("norm before clipping", pulses.norms, css("--accent"))];
  if (pulses.after.some((value, i) => value !== null && pulses.norms[i] !== null && value < 0.999 * pulses.norms[i])) series.push(line("norm after clipping", pulses.after, "#009e73", { lineStyle: { width: 1.2, type: "dotted" } }));
  if (pulses.spikes.length) series.push(points(pulses.spikes, `spike (over ${data.limits.spike_ratio} × the median before)`, "triangle", css("--critical"), (i) => pulses.norms[i]));
  if (pulses.clipped.length && pulses.clipped.length < pulses.steps.length / 2) series.push(points(pulses.clipped, "clipped", "emptyCircle", "#009e73", (i) => pulses.norms[i]));
  if (pulses.skipped.length) series.push(points(pulses.skipped, "skipped by the scaler", "rect", css("--warning"), () => low));
  if (pulses.broken.length) series.push(points(pulses.broken, "NaN or Inf", "diamond", "#cc2fa8", () => low));
  const withLoss = pulses.losses.some((value) => value !== null);
  if (withLoss) series.push({ ...line("loss", pulses.losses, css("--quiet")), data: pulses.steps.map((step, i) => [step, pulses.losses[i]]), yAxisIndex: 1 });
  draw("norm", {
    grid: { left: 62, right: withLoss ? 56 : 24, top: narrow() ? 96 : 56, bottom: 48 }, legend: { top: 0, textStyle: { color: css("--text"), fontSize: narrow() ? 10 : 12 } },
    xAxis: axis({ type: "value", name: "optimizer step", nameLocation: "middle", nameGap: 28, min: "dataMin", max: "dataMax", splitLine: { show: false } }),
    yAxis: [axis({ type: "log", name: "gradient norm", axisLabel: { color: css("--quiet"), formatter: (value) => number(value) } }), axis({ type: "value", name: withLoss ? "loss" : "", show: withLoss, splitLine: { show: false } })],
    tooltip: tooltip((items) => tip([`step ${items[0].value[0]}`, ...items.map((item) => `${item.seriesName}: ${number(item.value[1])}`)]), "axis"),
    series,
  }, `Global gradient norm at ${plural(pulses.steps.length, "step")}; ${plural(pulses.spikes.length, "spike")}, ${plural(pulses.clipped.length, "clipped step")}, ${plural(pulses.skipped.length, "skipped step")}.`);
  byId("norm-note").textContent = `${plural(pulses.steps.length, "step")} in memory: ${plural(pulses.spikes.length, "spike")}, ${pulses.clipped.length} clipped, ${pulses.skipped.length} skipped.`;
}

// -- start ---------------------------------------------------------------------------------------
function drawAll() {
  if (!data.series) return;
  for (const one of [drawHeat, drawDepth, drawTime, drawNorm]) one();
}

function startCharts() {
  const { series } = data;
  byId("no-series").hidden = Boolean(series);
  if (!series) {
    byId("no-series").textContent = "There are no pictures: this report holds no series of probes. One read from JSON has none; the page of a recorded run has (gradwatch report RUN --html).";
    return;
  }
  const last = series.steps.length - 1;
  if (state.column < 0 || state.column > last || state.follows) state.column = last;
  const slider = byId("step");
  slider.max = last;
  slider.value = state.column;
  if (!byId("quantities").children.length) {
    for (const [key, kind] of Object.entries(QUANTITIES)) {
      const button = make("button", kind.name, { type: "button", "aria-pressed": String(key === state.quantity), "data-quantity": key });
      button.addEventListener("click", () => {
        state.quantity = key;
        byId("quantities").querySelectorAll("button").forEach((one) => one.setAttribute("aria-pressed", String(one === button)));
        drawHeat();
      });
      byId("quantities").append(button);
    }
    slider.addEventListener("input", () => {
      state.column = Number(slider.value);
      state.follows = state.column === data.series.steps.length - 1;
      drawDepth();
      drawTime();
    });
    byId("filter").addEventListener("input", () => { state.filter = byId("filter").value; drawHeat(); });
    window.addEventListener("resize", () => { Object.values(charts).forEach((chart) => chart.resize()); drawAll(); });
  }
  // What cannot be measured here has no button.
  for (const button of byId("quantities").children) {
    button.hidden = !cells(series.grids[button.dataset.quantity]).some((cell) => cell !== MISSING);
  }
  drawAll();
}

// -- the page of a run that goes on: ask for newer data --------------------------------------------
let mark = "";
async function refresh() {
  const status = byId("live");
  try {
    const answer = await fetch(`data${window.location.search}`, { headers: mark ? { "If-None-Match": mark } : {}, cache: "no-store" });
    if (answer.status === 200) {
      mark = answer.headers.get("ETag") || "";
      data = await answer.json();
      unpacked.clear();
      await unpackAll();
      state.follows = state.follows !== false;
      const open = [...document.querySelectorAll("#cards details[open] > summary")].map((one) => one.textContent);
      showAll();
      document.querySelectorAll("#cards details > summary").forEach((one) => { if (open.includes(one.textContent)) one.parentElement.open = true; });
    } else if (answer.status !== 304) throw new Error(String(answer.status));
    status.textContent = data.finished ? "finished" : "live";
  } catch {
    status.textContent = "no connection";
  }
  if (!data.finished) window.setTimeout(refresh, 2000);
}

unpackAll().then(() => {
  showAll();
  document.body.dataset.ready = "yes";
  if (data.live) {
    byId("live").hidden = false;
    refresh();
  }
});
