"use strict";
// Maps of genes: spots from bytes, on canvas, with a divider between two maps, zoom and a scale bar.
(function () {
  const MAPS = CONTENT.maps;
  const UNMEASURED = 0, MEASURED = 1, ADDED = 2, HIDDEN = 3, NOTHING = 255, STEPS = 254;
  const MANY = 7000; // spots, from which squares are drawn instead of discs
  const GREY = "#4d4d4d", DOT = "#5c5c5c";
  const viewer = document.getElementById("viewer"), stage = document.getElementById("stage");
  const canvas = document.getElementById("map"), gallery = document.getElementById("gallery");
  const field = (id) => document.getElementById(id);
  if (!MAPS.genes.length) {
    field("gallery-hint").textContent = "There are no maps in this report.";
    field("gallery-title").hidden = true;
    return;
  }

  function bytes(text) {
    const raw = atob(text), found = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
    return found;
  }

  const slides = MAPS.slides.map((slide, number) => {
    const kinds = bytes(slide.kinds), places = new Uint16Array(bytes(slide.places).buffer);
    const x = new Float32Array(kinds.length), y = new Float32Array(kinds.length);
    for (let i = 0; i < kinds.length; i++) {
      x[i] = places[2 * i] / 65535 * slide.width;
      y[i] = places[2 * i + 1] / 65535 * slide.height;
    }
    const all = [...kinds.keys()];
    const made = { ...slide, kinds, x, y, image: null };
    made.seen = MAPS.seen ? all.filter((i) => kinds[i] === MEASURED || kinds[i] === HIDDEN) : [];
    made.own = all.filter((i) => !MAPS.keeps || kinds[i] !== MEASURED);
    made.hasHidden = MAPS.seen && kinds.includes(HIDDEN);
    const stored = field("image-" + number);
    if (stored) {
      made.image = new Image();
      made.image.addEventListener("load", redraw);
      made.image.src = stored.getAttribute("href");
    }
    return made;
  });

  const KINDS = {
    seen: "Measured", truth: "Measured, with hidden spots", imputed: "Imputed", sd: "Uncertainty", tissue: "Tissue alone",
  };

  function kindsOf(slide) {
    const found = [];
    if (MAPS.seen) found.push("seen");
    if (slide.hasHidden) found.push("truth");
    found.push("imputed");
    if (MAPS.sd) found.push("sd");
    if (slide.image) found.push("tissue");
    return found;
  }

  const read = new Map();
  function values(gene, number) {
    const name = gene + "/" + number;
    if (!read.has(name)) {
      if (read.size > 60) read.clear();
      const slide = slides[number], packed = MAPS.genes[gene].s[number], data = bytes(packed.d), n = slide.kinds.length;
      const seen = new Uint8Array(n).fill(NOTHING), imputed = new Uint8Array(n).fill(NOTHING);
      const sd = new Uint8Array(n).fill(NOTHING);
      let at = 0;
      for (const i of slide.seen) seen[i] = data[at++];
      for (const i of slide.own) imputed[i] = data[at++];
      if (MAPS.sd) for (const i of slide.own) sd[i] = data[at++];
      if (MAPS.keeps) for (const i of slide.seen) if (slide.kinds[i] === MEASURED) imputed[i] = seen[i];
      read.set(name, { seen, imputed, sd, v: packed.v, u: packed.u || [0, 1, 0, 1] });
    }
    return read.get(name);
  }

  function number(byte, scale) { return scale[0] + byte / STEPS * (scale[1] - scale[0]); }

  function bytesOf(map, kind, slide) {
    if (kind === "seen" || kind === "truth") {
      return map.seen.map((b, i) => (kind === "seen" && slide.kinds[i] === HIDDEN ? NOTHING : b));
    }
    return kind === "sd" ? map.sd : map.imputed;
  }

  // Draw one map; view maps the frame to pixels: x * zoom + left.
  function drawMap(context, slide, map, kind, view, opacity, outline) {
    const { x, y, kinds } = slide, zoom = view.zoom, step = slide.pitch * zoom;
    context.fillStyle = "#fff";
    context.fillRect(0, 0, view.width, view.height);
    if (slide.image && slide.image.complete && slide.image.naturalWidth) {
      context.globalAlpha = kind === "tissue" ? 1 : 0.6;
      context.imageSmoothingQuality = "high";
      context.drawImage(slide.image, view.left, view.top, slide.width * zoom, slide.height * zoom);
      context.globalAlpha = 1;
    }
    if (kind === "tissue") return;
    const shade = bytesOf(map, kind, slide), scale = kind === "sd" ? map.u : map.v;
    const stops = kind === "sd" ? MAPS.colours.sd : MAPS.colours.values;
    const buckets = stops.map(() => []), rings = [], dots = [], outlined = [];
    for (let i = 0; i < kinds.length; i++) {
      const px = x[i] * zoom + view.left, py = y[i] * zoom + view.top;
      if (px < -step || py < -step || px > view.width + step || py > view.height + step) continue;
      if (shade[i] === NOTHING) {
        if (kind === "sd") { if (kinds[i] === MEASURED) dots.push(px, py); }
        else if (kinds[i] !== ADDED) rings.push(px, py);
        continue;
      }
      const part = (number(shade[i], scale) - scale[2]) / (scale[3] - scale[2]);
      buckets[Math.round(Math.min(1, Math.max(0, part)) * (stops.length - 1))].push(px, py);
      if (outline && MAPS.keeps && kind === "imputed" && kinds[i] !== MEASURED) outlined.push(px, py);
    }
    const square = slide.binned || kinds.length > MANY, radius = step * (square ? 0.51 : 0.48);
    context.globalAlpha = opacity;
    buckets.forEach((points, i) => fill(context, points, radius, stops[i], square));
    context.globalAlpha = 1;
    fill(context, dots, Math.max(0.9, step * 0.16), DOT, false);
    ring(context, rings, step * 0.3, Math.max(0.6, step * 0.05), GREY);
    ring(context, outlined, step * 0.46, Math.max(0.8, step * 0.09), "#fff");
    ring(context, outlined, step * 0.46, Math.max(0.5, step * 0.045), "#111");
  }

  function fill(context, points, radius, colour, square) {
    if (!points.length) return;
    context.fillStyle = colour;
    context.beginPath();
    for (let i = 0; i < points.length; i += 2) {
      if (square) context.rect(points[i] - radius, points[i + 1] - radius, 2 * radius, 2 * radius);
      else { context.moveTo(points[i] + radius, points[i + 1]); context.arc(points[i], points[i + 1], radius, 0, 7); }
    }
    context.fill();
  }

  function ring(context, points, radius, width, colour) {
    if (!points.length) return;
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    for (let i = 0; i < points.length; i += 2) {
      context.moveTo(points[i] + radius, points[i + 1]);
      context.arc(points[i], points[i + 1], radius, 0, 7);
    }
    context.stroke();
  }

  // What is said of a gene, and the bars that explain its colours.
  function scores(name) {
    const at = CONTENT.genes.names.indexOf(name), said = [], made = [];
    if (at < 0) return ["seen in too few spots to be modelled: its mean is shown"];
    const column = (part) => CONTENT.genes.columns.find((one) => one.part === part);
    const get = (part) => (column(part) && column(part).values[at] !== null ? shown(column(part), column(part).values[at]) : null);
    if (column("reliable")) {
      const good = Boolean(column("reliable").values[at]);
      made.push(element("span", good ? "● may be looked at" : "○ not shown to be better", { class: "badge " + (good ? "yes" : "no") }), " ");
    }
    if (get("explained")) {
      const given = get("explained_given_depth");
      said.push(get("explained") + " explained" + (given ? " (" + given + " given depth)" : ""));
    }
    if (get("pearson")) said.push("Pearson " + get("pearson") + (get("hidden_pearson") ? " (" + get("hidden_pearson") + " at hidden spots)" : ""));
    return [...made, said.join(" · ")];
  }

  function legend(title, scale, stops) {
    const made = element("div", null, { class: "legend" }), strip = element("span", null, { class: "strip", "aria-hidden": "true" });
    strip.style.background = "linear-gradient(to right, " + stops.join(",") + ")";
    if (title) made.append(element("span", title, { class: "name" }));
    made.append(element("span", scale[2].toFixed(1)), strip, element("span", scale[3].toFixed(1)));
    return made;
  }

  // The viewer.
  const state = { gene: 0, slide: 0, zoom: 1, x: 0.5, y: 0.5 };
  const left = field("left"), right = field("right"), divider = field("divider"), genes = field("gene");
  const current = () => slides[state.slide];

  function fillKinds() {
    const kinds = kindsOf(current());
    for (const [select, wanted] of [[left, left.value || "seen"], [right, right.value || "imputed"]]) {
      select.replaceChildren(...kinds.map((kind) => element("option", KINDS[kind], { value: kind })));
      select.value = kinds.includes(wanted) ? wanted : "imputed";
    }
    if (left.value === right.value && kinds.includes("sd")) right.value = "sd";
  }

  function view() {
    const slide = current(), width = stage.clientWidth, height = canvas.clientHeight;
    const zoom = Math.min(width / slide.width, height / slide.height) * state.zoom;
    const bound = (centre, size, whole) => {
      if (size <= whole) return (whole - size) / 2;
      return Math.min(0, Math.max(whole - size, whole / 2 - centre * size));
    };
    return {
      zoom, width, height,
      left: bound(state.x, slide.width * zoom, width), top: bound(state.y, slide.height * zoom, height),
    };
  }

  function settle() { // what was asked for, as far as the borders let it be
    const now = view(), slide = current();
    state.x = (now.width / 2 - now.left) / (slide.width * now.zoom);
    state.y = (now.height / 2 - now.top) / (slide.height * now.zoom);
  }

  let waiting = false;
  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }

  function draw() {
    if (viewer.hidden) return;
    const slide = current(), ratio = window.devicePixelRatio || 1, width = stage.clientWidth;
    const height = Math.round(Math.min(width * slide.height / slide.width, Math.max(320, 0.82 * window.innerHeight)));
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.style.height = height + "px";
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const now = view(), context = canvas.getContext("2d"), at = width * divider.value / 100;
    const map = values(state.gene, state.slide), opacity = field("opacity").value / 100, outline = field("outline").checked;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    for (const [kind, from, to] of [[left.value, 0, at], [right.value, at, width]]) {
      if (to <= from) continue;
      context.save();
      context.beginPath();
      context.rect(from, 0, to - from, height);
      context.clip();
      drawMap(context, slide, map, kind, now, opacity, outline);
      context.restore();
    }
    if (at > 0 && at < width) handle(context, at, height);
    stage.classList.toggle("enlarged", state.zoom > 1);
    stage.dataset.zoom = state.zoom.toFixed(2);
    scaleBar(now, slide);
  }

  function handle(context, at, height) {
    context.fillStyle = "#fff";
    context.fillRect(at - 2, 0, 4, height);
    context.fillStyle = "#111";
    context.fillRect(at - 0.75, 0, 1.5, height);
    context.beginPath();
    context.arc(at, height / 2, 15, 0, 7);
    context.fillStyle = "#fff";
    context.fill();
    context.strokeStyle = "#111";
    context.lineWidth = 1.5;
    context.stroke();
    context.fillStyle = "#111";
    context.beginPath();
    for (const side of [-1, 1]) {
      context.moveTo(at + side * 10, height / 2);
      context.lineTo(at + side * 4, height / 2 - 5);
      context.lineTo(at + side * 4, height / 2 + 5);
    }
    context.fill();
  }

  function scaleBar(now, slide) {
    const unit = slide.um ? slide.um / now.zoom : 1 / (slide.pitch * now.zoom); // of a pixel of the screen
    const aim = 0.22 * Math.min(now.width, 700) * unit, power = Math.pow(10, Math.floor(Math.log10(aim)));
    const length = [5, 2, 1].map((digit) => digit * power).find((one) => one <= aim);
    const name = !slide.um ? length + " pitches" : length >= 1000 ? length / 1000 + " mm" : length + " µm";
    const bar = field("scale"), line = bar.querySelector("span");
    bar.replaceChildren(name, line);
    line.style.width = length / unit + "px";
  }

  function update() {
    const gene = MAPS.genes[state.gene], slide = current(), map = values(state.gene, state.slide);
    genes.value = String(state.gene);
    field("gene-said").replaceChildren(element("strong", gene.n), " ", ...scores(gene.n));
    field("tag-left").textContent = KINDS[left.value];
    field("tag-right").textContent = KINDS[right.value];
    canvas.setAttribute("aria-label", "Map of " + gene.n + " on " + slide.name + ": " + KINDS[left.value] + " to the left of the divider, " +
      KINDS[right.value] + " to the right. Colours of expression go from " + map.v[2].toFixed(1) + " to " + map.v[3].toFixed(1) + ".");
    const shownKinds = [left.value, right.value], bars = [];
    if (shownKinds.some((kind) => kind !== "sd" && kind !== "tissue")) {
      bars.push(legend("Expression: " + MAPS.units, map.v, MAPS.colours.values));
    }
    if (shownKinds.includes("sd")) bars.push(legend("Uncertainty: standard deviation of the value", map.u, MAPS.colours.sd));
    field("legends").replaceChildren(...bars);
    field("outline").parentElement.hidden = !MAPS.keeps;
    divider.setAttribute("aria-valuetext", divider.value + " % " + KINDS[left.value] + ", the rest " + KINDS[right.value]);
    redraw();
  }

  function choose(gene) {
    state.gene = (gene + MAPS.genes.length) % MAPS.genes.length;
    update();
  }

  function zoomTo(zoom, x, y) { // keeps the point of the frame that is at x, y of the stage
    const before = view(), slide = current();
    const [fx, fy] = [(x - before.left) / before.zoom, (y - before.top) / before.zoom];
    state.zoom = Math.min(16, Math.max(1, zoom));
    const now = Math.min(before.width / slide.width, before.height / slide.height) * state.zoom;
    state.x = (fx - (x - before.width / 2) / now) / slide.width;
    state.y = (fy - (y - before.height / 2) / now) / slide.height;
    settle();
    redraw();
  }

  function move(dx, dy) {
    const now = view(), slide = current();
    state.x -= dx / (slide.width * now.zoom);
    state.y -= dy / (slide.height * now.zoom);
    settle();
    redraw();
  }

  function divide(value) {
    divider.value = String(Math.min(100, Math.max(0, value)));
    update();
  }

  // Pointers: the divider, the map once it is enlarged, two fingers, and reading values.
  const pointers = new Map();
  let drag = null, grip = 0;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const apart = () => {
    const [a, b] = [...pointers.values()];
    return [Math.hypot(a[0] - b[0], a[1] - b[1]), (a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
  };

  canvas.addEventListener("pointerdown", (event) => {
    const [x, y] = place(event);
    pointers.set(event.pointerId, [x, y]);
    canvas.setPointerCapture(event.pointerId);
    grip = x - stage.clientWidth * divider.value / 100;
    const isNear = Math.abs(grip) < 26;
    drag = pointers.size > 1 ? "pinch" : isNear || state.zoom === 1 ? "divider" : "map";
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event), before = pointers.get(event.pointerId);
    if (!before) { say(x, y); return; }
    if (drag === "pinch" && pointers.size === 2) {
      const [was] = apart();
      pointers.set(event.pointerId, [x, y]);
      const [is, cx, cy] = apart();
      zoomTo(state.zoom * is / was, cx, cy);
      return;
    }
    pointers.set(event.pointerId, [x, y]);
    if (drag === "divider") divide((x - grip) / stage.clientWidth * 100);
    if (drag === "map") move(x - before[0], y - before[1]);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, (event) => { pointers.delete(event.pointerId); say(...place(event)); });
  }
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoomTo(state.zoom * Math.exp(-event.deltaY / 300), ...place(event));
  }, { passive: false });

  function say(x, y) {
    const now = view(), slide = current(), map = values(state.gene, state.slide);
    const [fx, fy] = [(x - now.left) / now.zoom, (y - now.top) / now.zoom];
    let best = -1, least = Math.pow(0.7 * slide.pitch, 2);
    for (let i = 0; i < slide.x.length; i++) {
      const away = (slide.x[i] - fx) ** 2 + (slide.y[i] - fy) ** 2;
      if (away < least) { least = away; best = i; }
    }
    if (best < 0) return;
    const name = { [UNMEASURED]: "Not measured", [MEASURED]: "Measured", [ADDED]: "Added between spots", [HIDDEN]: "Hidden from the run" };
    const said = [];
    if (map.seen[best] !== NOTHING) said.push("measured " + number(map.seen[best], map.v).toFixed(2));
    if (map.sd[best] !== NOTHING || !MAPS.keeps || slide.kinds[best] !== MEASURED) {
      if (map.imputed[best] !== NOTHING) said.push("imputed " + number(map.imputed[best], map.v).toFixed(2));
      if (MAPS.sd && map.sd[best] !== NOTHING) said.push("standard deviation " + number(map.sd[best], map.u).toFixed(2));
    }
    field("readout").textContent = name[slide.kinds[best]] + (slide.binned ? " (mean of several spots)" : "") + ": " + said.join(", ") + ".";
  }

  const keys = {
    ArrowLeft: () => move(60, 0), ArrowRight: () => move(-60, 0), ArrowUp: () => move(0, 60), ArrowDown: () => move(0, -60),
    "+": () => closer(1.5), "=": () => closer(1.5), "-": () => closer(1 / 1.5), 0: () => closer(0),
    ",": () => divide(Number(divider.value) - 5), ".": () => divide(Number(divider.value) + 5),
  };
  function closer(factor) { zoomTo(state.zoom * factor, stage.clientWidth / 2, canvas.clientHeight / 2); }
  stage.addEventListener("keydown", (event) => {
    if (event.target !== stage || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    if (event.key.startsWith("Arrow") && state.zoom === 1) return; // the page scrolls
    event.preventDefault();
    keys[event.key]();
  });
  field("zoom-in").addEventListener("click", () => closer(1.5));
  field("zoom-out").addEventListener("click", () => closer(1 / 1.5));
  field("zoom-all").addEventListener("click", () => closer(0));
  field("previous").addEventListener("click", () => choose(state.gene - 1));
  field("next").addEventListener("click", () => choose(state.gene + 1));
  genes.addEventListener("change", () => choose(Number(genes.value)));
  for (const control of [left, right, divider, field("outline"), field("opacity")]) control.addEventListener("input", update);
  if (field("slide")) {
    field("slide").addEventListener("change", (event) => {
      state.slide = Number(event.target.value);
      Object.assign(state, { zoom: 1, x: 0.5, y: 0.5 });
      fillKinds();
      update();
      drawGallery();
    });
  }

  function show(gene) {
    choose(gene);
    viewer.scrollIntoView({ block: "start" });
    stage.focus({ preventScroll: true });
  }
  document.addEventListener("gene", (event) => show(MAPS.genes.findIndex((gene) => gene.n === event.detail)));

  // The genes at a glance.
  function panel(gene, kind) {
    const slide = current(), made = element("div", null, { class: "panel" });
    const small = element("canvas", null, { role: "img", "aria-label": KINDS[kind] + " " + MAPS.genes[gene].n });
    const width = 360, height = Math.round(width * Math.min(1.6, slide.height / slide.width));
    const zoom = Math.min(width / slide.width, height / slide.height);
    Object.assign(small, { width, height });
    const centred = { zoom, width, height, left: (width - slide.width * zoom) / 2, top: (height - slide.height * zoom) / 2 };
    small.drawAgain = () => drawMap(small.getContext("2d"), slide, values(gene, state.slide), kind, centred, 1, false);
    small.drawAgain();
    made.append(small, KINDS[kind]);
    if (slide.image && !slide.image.complete) slide.image.addEventListener("load", small.drawAgain);
    return made;
  }

  function card(gene) {
    const made = element("figure", null, { class: "card" }), caption = element("figcaption");
    const { n } = MAPS.genes[gene], map = values(gene, state.slide);
    const panels = element("div", null, { class: "panels" });
    const kinds = kindsOf(current()).filter((kind) => kind !== "tissue" && kind !== "truth");
    panels.append(...kinds.map((kind) => panel(gene, kind)));
    const button = element("button", "Look closer", { type: "button", "aria-label": "Look closer at " + n });
    button.addEventListener("click", () => show(gene));
    const said = element("p", null, { class: "hint" });
    said.append(...scores(n));
    caption.append(element("h4", n), said);
    made.append(caption, panels, legend("", map.v, MAPS.colours.values), button);
    return made;
  }

  function drawGallery() {
    gallery.replaceChildren(...MAPS.genes.slice(0, MAPS.featured).map((_, gene) => card(gene)));
  }

  viewer.hidden = false;
  genes.replaceChildren(...MAPS.genes.map((gene, i) => element("option", gene.n, { value: String(i) })));
  field("gallery-hint").textContent = "The first " + MAPS.featured + " of " + MAPS.genes.length +
    " genes with maps. The bar is for measured and imputed values.";
  fillKinds();
  update();
  drawGallery();
  new ResizeObserver(redraw).observe(stage);
})();
