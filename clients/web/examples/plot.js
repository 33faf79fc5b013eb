/** The round-trip time of the last minute, and when nothing got through. */

const SPAN_MS = 60_000;
const SAMPLES_MAX = 600;
/** The scale's top is one of these, so that it does not jump with every sample. */
const TOPS = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000];
const FLOOR = 18;

export class Plot {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    /** @type {{at: number, rtt: number}[]} */
    this.samples = [];
    /** @type {{from: number, to: number}[]} `to` is Infinity while it lasts */
    this.gaps = [];
    /** @type {{at: number, label: string}[]} */
    this.marks = [];
    this.resizing = new ResizeObserver(() => this.draw());
    this.resizing.observe(canvas);
    this.timer = setInterval(() => this.draw(), 250);
  }

  /** @param {number} rtt */
  add(rtt) {
    this.samples.push({ at: performance.now(), rtt });
    if (this.samples.length > SAMPLES_MAX) this.samples.shift();
    this.draw();
  }

  /**
   * Notes a change; the same again is none.
   * @param {string} label
   */
  mark(label) {
    if (this.marks.at(-1)?.label === label) return;
    this.marks.push({ at: performance.now(), label });
    if (this.marks.length > 20) this.marks.shift();
  }

  down() {
    this.gaps.push({ from: performance.now(), to: Infinity });
    if (this.gaps.length > 50) this.gaps.shift();
  }

  /** @param {number} gapMs */
  up(gapMs) {
    const gap = this.gaps.at(-1);
    if (gap === undefined || gap.to !== Infinity) return;
    gap.to = performance.now();
    gap.from = gap.to - gapMs;
  }

  stop() {
    clearInterval(this.timer);
    this.resizing.disconnect();
  }

  draw() {
    const { canvas } = this;
    const brush = canvas.getContext('2d');
    const { clientWidth: width, clientHeight: height } = canvas;
    if (brush === null || width === 0) return;
    const scale = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    brush.setTransform(scale, 0, 0, scale, 0, 0);
    brush.clearRect(0, 0, width, height);
    const style = getComputedStyle(canvas);
    const color = (/** @type {string} */ name) => style.getPropertyValue(name);
    const end = performance.now();
    const shown = this.samples.filter(({ at }) => end - at < SPAN_MS);
    const highest = Math.max(0, ...shown.map(({ rtt }) => rtt));
    const top = TOPS.find((step) => step >= highest * 1.15) ?? highest;
    const x = (/** @type {number} */ at) => width - ((end - at) / SPAN_MS) * width;
    const y = (/** @type {number} */ rtt) => height - FLOOR - (rtt / top) * (height - FLOOR - 14);

    brush.font = '11px system-ui, sans-serif';
    brush.textBaseline = 'bottom';
    brush.lineWidth = 1;
    for (const step of [0, top / 2, top]) {
      brush.strokeStyle = color('--line');
      brush.beginPath();
      brush.moveTo(0, Math.round(y(step)) + 0.5);
      brush.lineTo(width, Math.round(y(step)) + 0.5);
      brush.stroke();
      brush.fillStyle = color('--muted');
      brush.textAlign = 'left';
      if (step > 0) brush.fillText(`${step} ms`, 2, y(step) - 1);
    }
    for (const [label, at, align] of /** @type {const} */ ([['1 min ago', 0, 'left'], ['now', width, 'right']])) {
      brush.textAlign = align;
      brush.fillText(label, at, height);
    }
    for (const { from, to } of this.gaps) {
      const left = Math.max(0, x(from));
      const right = Math.min(width, x(Math.min(to, end)));
      if (right <= 0) continue;
      brush.fillStyle = color('--gap');
      brush.fillRect(left, 10, Math.max(2, right - left), height - FLOOR - 10);
    }
    let taken = -Infinity;
    for (const { at, label } of this.marks) {
      if (end - at > SPAN_MS) continue;
      brush.strokeStyle = color('--muted');
      brush.setLineDash([2, 3]);
      brush.beginPath();
      brush.moveTo(x(at), 12);
      brush.lineTo(x(at), height - FLOOR);
      brush.stroke();
      brush.setLineDash([]);
      const size = brush.measureText(label).width + 8;
      const left = Math.min(x(at) + 4, width - size);
      if (left < taken) continue;
      taken = left + size;
      brush.textAlign = 'left';
      brush.fillStyle = color('--muted');
      brush.fillText(label, left, 14);
    }
    brush.strokeStyle = color('--accent');
    brush.lineWidth = 2;
    brush.lineJoin = 'round';
    brush.beginPath();
    let last = -Infinity;
    for (const { at, rtt } of shown) {
      // No line across a time in which nothing was measured.
      if (at - last > 3_000) brush.moveTo(x(at), y(rtt));
      else brush.lineTo(x(at), y(rtt));
      last = at;
    }
    brush.stroke();
    const latest = shown.at(-1);
    if (latest !== undefined) {
      brush.fillStyle = color('--accent');
      brush.beginPath();
      brush.arc(Math.min(x(latest.at), width - 3), y(latest.rtt), 3, 0, Math.PI * 2);
      brush.fill();
    }
  }
}
