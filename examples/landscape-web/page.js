// The page: draws the paths, and shows the hashes. `main.rs` puts it and its data into page.html.

const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
const byId = id => document.getElementById(id);
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const data = JSON.parse(byId('data').textContent);
const { rules, landscapes, sliders, native } = data;

// The library. A fresh view for each path, because memory can move when it grows.
const gzip = new Blob([bytes(byId('wasm').textContent)]).stream();
const code = await new Response(gzip.pipeThrough(new DecompressionStream('gzip'))).arrayBuffer();
const library = (await WebAssembly.instantiate(code)).instance.exports;

/** Runs one rule. `values` are those of the sliders, null for the rule's default. */
function run(rule, landscape, [x, y], [factor, beta1, beta2, eps, decay, steps]) {
  const own = value => value ?? NaN;
  const lr = rules[rule].lr[landscape] * factor;
  const points = library.run(
    rule, landscape, x, y, lr, own(beta1), own(beta2), own(eps), own(decay), steps);
  const path = new Float32Array(library.memory.buffer, library.path(), 2 * points);
  const hash = points ? BigInt.asUintN(64, library.hash()).toString(16).padStart(16, '0') : '';
  return { path, hash, lr };
}

// The native hashes, by their settings.
const settingKey = (landscape, [x, y], values) =>
  [landscape, x, y, ...values].map(value => value ?? '-').join(' ');
const nativeHashes = new Map();
{
  const view = new DataView(bytes(native.hashes).buffer);
  native.settings.forEach(([landscape, x, y, ...values], i) => {
    const hashes = rules.map((_, j) =>
      view.getBigUint64(8 * (i * rules.length + j), true).toString(16).padStart(16, '0'));
    nativeHashes.set(settingKey(landscape, [x, y], values), hashes);
  });
}

// What the visitor has chosen.
const state = {
  active: 0,
  starts: landscapes.map(l => l.start),
  stops: sliders.map(slider => slider.default),
  shown: rules.map(() => true),
  emphasis: -1,
};
const values = () => sliders.map((slider, i) => slider.stops[state.stops[i]]);
const atDefaults = () => sliders.every((slider, i) => state.stops[i] === slider.default);

// Drawing.
const margin = { left: 36, right: 10, top: 6, bottom: 24 };
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = matchMedia('(prefers-color-scheme: dark)');
/** The colour of a rule, lighter on a dark page. */
function colour({ colour: [r, g, b] }) {
  const luminance = (2 * r + 7 * g + b) / 2550;
  const white = dark.matches ? Math.max(0, (.5 - luminance) / (1 - luminance)) : 0;
  return `rgb(${[r, g, b].map(c => Math.round(c + white * (255 - c))).join(' ')})`;
}

class Plot {
  dirty = true;
  runs = [];

  constructor(landscape, index) {
    Object.assign(this, landscape, { index });
    const [title, formula] = [element('b', { textContent: this.name }), this.formula];
    this.radio = element('input', { type: 'radio', name: 'function', checked: !index });
    this.radio.onchange = () => activate(index);
    this.tab = element('label', { className: 'tab' }, this.radio, title, ' ',
      element('small', { textContent: formula }));
    this.canvas = element('canvas');
    this.handle = element('div', { className: 'start', tabIndex: 0, role: 'slider' });
    this.handle.ariaLabel = `Start on ${this.name}; the arrow keys move it`;
    this.box = element('div', { className: 'plot' }, this.canvas, this.handle);
    this.context = this.canvas.getContext('2d');
    this.listen();
    new ResizeObserver(() => this.resize()).observe(this.box);
  }

  get minimum() { return [this.x0, this.bend * this.x0 ** 2]; }
  get from() { return state.starts[this.index]; }
  value(x, y) { return (x - this.x0) ** 2 + this.steepness * (y - this.bend * x * x) ** 2; }
  pixelX(x) {
    const width = this.width - margin.left - margin.right;
    const [left, right] = [this.leftLow[0], this.rightHigh[0]];
    return margin.left + width * (x - left) / (right - left);
  }
  pixelY(y) {
    const height = this.height - margin.top - margin.bottom;
    const [low, high] = [this.leftLow[1], this.rightHigh[1]];
    return margin.top + height * (high - y) / (high - low);
  }

  /** Moves the start, rounded to hundredths and kept in the plot. */
  move(x, y) {
    const fit = (value, i) =>
      Number(Math.min(Math.max(value, this.leftLow[i]), this.rightHigh[i]).toFixed(2));
    state.starts[this.index] = [fit(x, 0), fit(y, 1)];
    activate(this.index);
    this.dirty = true;
    schedule();
  }

  /** Moves the start to a pixel, or to a start of the grid that is very near. */
  moveToPixel(pixel) {
    const point = [this.leftLow, this.rightHigh].map(corner =>
      [this.pixelX(corner[0]), this.pixelY(corner[1])]);
    const at = [0, 1].map(i => {
      const part = (pixel[i] - point[0][i]) / (point[1][i] - point[0][i]);
      return this.leftLow[i] + part * (this.rightHigh[i] - this.leftLow[i]);
    });
    const near = at.map((value, i) => Math.round(value / this.grid[i]) * this.grid[i]);
    const distance = Math.hypot(this.pixelX(near[0]) - pixel[0], this.pixelY(near[1]) - pixel[1]);
    this.move(...(distance < 5 && atDefaults() ? near : at));
  }

  listen() {
    const drag = event => {
      const box = this.box.getBoundingClientRect();
      this.moveToPixel([event.clientX - box.left, event.clientY - box.top]);
    };
    for (const target of [this.canvas, this.handle]) {
      let dragged = false;
      target.onpointerdown = event => {
        // A finger on the plot scrolls the page, unless it only taps.
        if (event.button !== 0 || target === this.canvas && event.pointerType !== 'mouse') return;
        target.setPointerCapture(event.pointerId);
        dragged = true;
        if (target === this.canvas) drag(event);
      };
      target.onpointermove = event => dragged && drag(event);
      target.onpointerup = target.onpointercancel = () => { dragged = false; };
    }
    this.canvas.onclick = drag;
    this.handle.onkeydown = event => {
      const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };
      if (!(event.key in arrow)) return;
      event.preventDefault();
      const [dx, dy] = arrow[event.key].map(step => step * (event.shiftKey ? .25 : .05));
      this.move(this.from[0] + dx, this.from[1] + dy);
    };
  }

  resize() {
    [this.width, this.height] = [this.box.clientWidth, this.box.clientHeight];
    this.ground = null;
    this.redraw = true;
    schedule();
  }

  /** The contours and the axes, drawn once for each size and colour scheme. */
  drawGround() {
    this.scale = devicePixelRatio;
    this.canvas.width = Math.round(this.width * this.scale);
    this.canvas.height = Math.round(this.height * this.scale);
    this.ground = element('canvas', { width: this.canvas.width, height: this.canvas.height });
    const ctx = this.ground.getContext('2d');
    ctx.scale(this.scale, this.scale);
    ctx.fillStyle = css('--soft');
    ctx.font = '12px system-ui, "DejaVu Sans", sans-serif';
    const number = value => value.toFixed(1).replace('-', '−');
    const ticks = (i, step) => {
      const first = Math.ceil(this.leftLow[i] / step), last = Math.floor(this.rightHigh[i] / step);
      return Array.from({ length: last - first + 1 }, (_, k) => (first + k) * step);
    };
    ctx.textAlign = 'center';
    for (const x of ticks(0, 1)) ctx.fillText(number(x), this.pixelX(x), this.height - 7);
    ctx.textAlign = 'right';
    for (const y of ticks(1, .5)) ctx.fillText(number(y), margin.left - 6, this.pixelY(y) + 4);
    this.clip(ctx);
    ctx.fillStyle = css('--high');
    ctx.fill();
    ctx.strokeStyle = css('--contour');
    // Contours at 10^(k/4), evenly spaced on a logarithmic scale.
    for (let k = 9; k >= -8; k -= 1) {
      const height = 10 ** (k / 4);
      ctx.beginPath();
      for (let i = 0; i < 720; i += 1) {
        const x = this.x0 + Math.sqrt(height) * Math.cos(Math.PI * i / 360);
        const wall = Math.sqrt(height / this.steepness) * Math.sin(Math.PI * i / 360);
        ctx.lineTo(this.pixelX(x), this.pixelY(this.bend * x * x + wall));
      }
      ctx.closePath();
      const part = 100 * (10 - k) / 18;
      ctx.fillStyle = `color-mix(in srgb, ${css('--low')} ${part}%, ${css('--high')})`;
      ctx.fill();
      ctx.stroke();
    }
  }

  clip(ctx) {
    ctx.beginPath();
    ctx.roundRect(margin.left, margin.top, this.width - margin.left - margin.right,
      this.height - margin.top - margin.bottom, 6);
    ctx.clip();
  }

  draw() {
    if (!this.width) return;
    if (!this.ground) this.drawGround();
    const ctx = this.context;
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.clearRect(0, 0, this.canvas.width, this.canvas.height);
    ctx.drawImage(this.ground, 0, 0);
    ctx.scale(this.scale, this.scale);
    ctx.save();
    this.clip(ctx);
    const ink = css('--ink'), page = css('--page');
    if (atDefaults()) this.drawGrid(ctx, ink);
    ctx.lineJoin = 'round';
    for (let i = rules.length - 1; i >= 0; i -= 1) if (state.shown[i]) this.drawPath(ctx, i, page);
    ctx.restore();
    this.drawMinimum(ctx, ink, page);
    const [x, y] = this.from;
    this.handle.style.left = `${this.pixelX(x)}px`;
    this.handle.style.top = `${this.pixelY(y)}px`;
    this.handle.ariaValueNow = x;
    this.handle.ariaValueText = `x ${x}, y ${y}`;
  }

  /** A dot at each start whose hashes were computed natively. */
  drawGrid(ctx, ink) {
    ctx.fillStyle = ink;
    ctx.globalAlpha = .22;
    for (const [landscape, x, y] of native.settings) {
      if (landscape !== this.index) continue;
      ctx.fillRect(this.pixelX(x) - .75, this.pixelY(y) - .75, 1.5, 1.5);
    }
    ctx.globalAlpha = 1;
  }

  drawPath(ctx, rule, page) {
    const { path } = this.runs[rule];
    const far = value => Math.min(Math.max(value, -1e4), 1e4);
    ctx.beginPath();
    let x, y;
    for (let i = 0; i < path.length; i += 2) {
      if (!Number.isFinite(path[i]) || !Number.isFinite(path[i + 1])) break;
      [x, y] = [far(this.pixelX(path[i])), far(this.pixelY(path[i + 1]))];
      ctx.lineTo(x, y);
    }
    ctx.globalAlpha = state.emphasis < 0 || state.emphasis === rule ? .9 : .12;
    ctx.strokeStyle = ctx.fillStyle = colour(rules[rule]);
    ctx.lineWidth = state.emphasis === rule ? 2.5 : 1.75;
    ctx.stroke();
    ctx.beginPath();
    ctx.arc(x, y, 4, 0, 2 * Math.PI);
    ctx.fill();
    ctx.strokeStyle = page;
    ctx.lineWidth = 1;
    ctx.stroke();
    ctx.globalAlpha = 1;
  }

  /** A star with five points. */
  drawMinimum(ctx, ink, page) {
    const [x, y] = [this.pixelX(this.minimum[0]), this.pixelY(this.minimum[1])];
    ctx.beginPath();
    for (let i = 0; i < 10; i += 1) {
      const radius = i % 2 ? 4.5 : 11;
      const angle = Math.PI * i / 5;
      ctx.lineTo(x + radius * Math.sin(angle), y - radius * Math.cos(angle));
    }
    ctx.closePath();
    ctx.fillStyle = ink;
    ctx.fill();
    ctx.strokeStyle = page;
    ctx.stroke();
  }

  compute() {
    this.runs = rules.map((_, rule) => {
      const { path, ...rest } = run(rule, this.index, this.from, values());
      return { path: path.slice(), ...rest };
    });
    this.dirty = false;
    this.redraw = true;
  }
}

// The controls.
const plots = landscapes.map((landscape, i) => new Plot(landscape, i));
document.querySelector('.stage').append(...plots.map(plot => plot.tab), ...plots.map(p => p.box));

const short = value =>
  value >= 1e-3 || value === 0 ? String(value) : value.toExponential().replace('-', '−');
const controls = sliders.map((slider, i) => {
  const id = `slider-${i}`;
  const last = slider.stops.length - 1;
  const output = element('output');
  const input = element('input', { id, type: 'range', min: 0, max: last, value: slider.default });
  input.setAttribute('aria-describedby', `${id}-note`);
  const show = () => {
    const value = slider.stops[state.stops[i]];
    output.value = value === null ? slider.own : (i ? '' : '× ') + short(value);
    input.ariaValueText = output.value;
    output.classList.toggle('moved', state.stops[i] !== slider.default);
  };
  const set = stop => {
    state.stops[i] = Number(input.value = stop);
    show();
    for (const plot of plots) plot.dirty = true;
    schedule();
  };
  input.oninput = () => set(input.value);
  show();
  document.querySelector('.sliders').append(element('div', { className: 'slider' },
    element('label', { htmlFor: id, textContent: slider.label }), output, input,
    element('small', { id: `${id}-note`, textContent: slider.note })));
  return { reset: () => set(slider.default) };
});

const rows = rules.map((rule, i) => {
  const box = element('input', { type: 'checkbox', checked: true });
  const cell = (className, label) => {
    const made = element('td', { className });
    if (label) made.dataset.label = label;
    return made;
  };
  const cells = { lr: cell('number rate'), end: cell('number end'), value: cell('number') };
  Object.assign(cells, { here: cell('hash', 'here'), native: cell('hash', 'native') });
  cells.equal = cell('number');
  const name = element('td', {}, element('label', {}, box, rule.name));
  const row = element('tr', {}, name, ...Object.values(cells));
  const show = shown => {
    state.shown[i] = box.checked = shown;
    row.classList.toggle('off', !shown);
    redraw();
  };
  box.onchange = () => show(box.checked);
  const emphasize = rule => () => { state.emphasis = rule; redraw(); };
  row.onmouseenter = emphasize(i);
  row.onmouseleave = emphasize(-1);
  document.querySelector('tbody').append(row);
  return { ...cells, row, box, show };
});
byId('all').onclick = () => rows.forEach(row => row.show(true));
byId('none').onclick = () => rows.forEach(row => row.show(false));
byId('reset').onclick = () => {
  state.starts = landscapes.map(l => l.start);
  controls.forEach(control => control.reset());
};

function activate(index) {
  state.active = index;
  plots[index].radio.checked = true;
  plots.forEach((plot, i) => plot.box.classList.toggle('shown', i === index));
  schedule();
}

const signed = value =>
  (Math.abs(value) < 1e3 ? value.toFixed(3) : value.toExponential(1)).replaceAll('-', '−');
function showTable() {
  const plot = plots[state.active];
  const chosen = values();
  const key = settingKey(plot.index, plot.from, chosen);
  const hashes = nativeHashes.get(key);
  byId('results').textContent = `${plot.name} after ${chosen[5]} steps`;
  rows.forEach((row, i) => {
    const { path, hash, lr } = plot.runs[i];
    const [x, y] = path.slice(-2);
    const value = plot.value(x, y);
    const finite = Number.isFinite(value);
    row.lr.textContent = short(Number(lr.toPrecision(3)));
    row.end.textContent = finite ? `${signed(x)}, ${signed(y)}` : '';
    row.value.textContent = finite ? value.toExponential(1).replace('-', '−')
      : hash ? 'diverged' : 'not allowed';
    row.here.textContent = hash || '–';
    row.native.textContent = hashes?.[i] ?? '–';
    const equal = hashes?.[i] === hash;
    row.equal.textContent = hashes ? (equal ? 'equal' : 'differs') : '';
    row.equal.className = `number ${hashes ? row.equal.textContent : ''}`;
    row.box.parentElement.parentElement.style.setProperty('--colour', colour(rules[i]));
  });
  byId('native').replaceChildren(...hashes
    ? ['Computed natively when this page was built: these settings, every start with a dot, and '
      + 'every position of one slider alone.']
    : ['Not computed natively: these settings. This command in examples/landscape-web does it: ',
      element('code', { textContent: `cargo run -- hash ${key}` })]);
}

let scheduled = false;
function redraw() {
  for (const plot of plots) plot.redraw = true;
  schedule();
}
function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    const start = performance.now();
    const computed = plots.filter(plot => plot.dirty);
    for (const plot of computed) plot.compute();
    const between = performance.now();
    for (const plot of plots.filter(plot => plot.redraw)) plot.draw();
    for (const plot of plots) plot.redraw = false;
    showTable();
    if (!computed.length) return;
    const end = performance.now();
    const [compute, draw] = [between - start, end - between].map(time => time.toFixed(1));
    byId('time').textContent = `${computed.length * rules.length} paths of ${values()[5]} steps: `
      + `computed in ${compute} ms, drawn in ${draw} ms.`;
  });
}
dark.onchange = () => plots.forEach(plot => plot.resize());
activate(0);

// Compares everything that was computed natively, in short parts.
const { machine, backend } = native;
let [next, compared, different] = [0, 0, 0];
function compare() {
  const end = performance.now() + 8;
  for (; next < native.settings.length && performance.now() < end; next += 1) {
    const [landscape, x, y, ...chosen] = native.settings[next];
    const hashes = nativeHashes.get(settingKey(landscape, [x, y], chosen));
    rules.forEach((_, rule) => {
      compared += 1;
      if (run(rule, landscape, [x, y], chosen).hash !== hashes[rule]) different += 1;
    });
  }
  const where = `natively on ${machine} with the backend ${backend}`;
  const count = compared.toLocaleString('en');
  if (next < native.settings.length) {
    byId('check').textContent = `Comparing the paths computed ${where}: ${count} …`;
    setTimeout(compare, 16);
  } else {
    byId('check').textContent = different
      ? `${different} of ${count} paths computed ${where} have another hash here.`
      : `All ${count} paths computed ${where} have the same hash here.`;
    byId('check').className = different ? 'differs' : 'soft';
  }
}
setTimeout(compare, 500);
