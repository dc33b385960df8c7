// The picture: a slice with points, names and boxes. Coordinates: stored pixels are those of
// result.json; shown ones those of the upright slice (the centre of the top left pixel is 0, 0);
// screen ones are CSS pixels of the canvas.

const DISC = "#e69f00";
const VERTEBRA = "#56b4e9";
const CHOSEN = "#f0e442";
const BEYOND = "#bbbbbb";
const NEAR = 14;

export function toShown(turn, x, y) {
  const [height, width] = turn.size_hw;
  let [a, b] = turn.transpose ? [y, x] : [x, y];
  if (turn.flip_x) a = width - 1 - a;
  if (turn.flip_y) b = height - 1 - b;
  return [(a + 0.5) * turn.scale_xy[0] - 0.5, (b + 0.5) * turn.scale_xy[1] - 0.5];
}

export function toStored(turn, x, y) {
  const [height, width] = turn.size_hw;
  let a = (x + 0.5) / turn.scale_xy[0] - 0.5;
  let b = (y + 0.5) / turn.scale_xy[1] - 0.5;
  if (turn.flip_x) a = width - 1 - a;
  if (turn.flip_y) b = height - 1 - b;
  return turn.transpose ? [b, a] : [a, b];
}

export class Viewer {
  /** @param on {choose(place), drag(place, x, y, ended)}: what the reader does with points. */
  constructor(canvas, on) {
    this.canvas = canvas;
    this.on = on;
    this.slice = null;
    this.marks = [];
    this.chosen = null;
    this.boxes = false;
    this.points = true;
    this.mayEdit = true;
    this.scale = 1;
    this.offset = [0, 0];
    this.window = [0, 1];
    this.fitted = true;
    this.pixels = document.createElement("canvas");
    this.gesture = null;
    this.touches = new Map();
    new ResizeObserver(() => this.resized()).observe(canvas);
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.up(event));
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => this.fit());
  }

  /** Show a slice; the view stays where it was unless the study is another one. */
  show(slice, anew) {
    this.slice = slice;
    if (anew && slice) {
      this.window = [...slice.window];
      this.fit();
    } else {
      this.paint();
    }
  }

  get usualWindow() {
    return this.slice ? this.slice.window : [0, 1];
  }

  fit() {
    this.fitted = true;
    this.window = [...this.usualWindow];
    this.fitView();
    this.paint();
  }

  fitView() {
    if (!this.slice) return;
    const { clientWidth: wide, clientHeight: high } = this.canvas;
    this.scale = Math.min(wide / this.slice.columns, high / this.slice.rows);
    this.offset = [(wide - this.scale * this.slice.columns) / 2, (high - this.scale * this.slice.rows) / 2];
  }

  resized() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (this.fitted) this.fitView();
    this.draw();
  }

  zoom(by, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const scale = Math.min(Math.max(this.scale * by, 0.05), 60);
    const kept = scale / this.scale;
    this.offset = [x - (x - this.offset[0]) * kept, y - (y - this.offset[1]) * kept];
    this.scale = scale;
    this.fitted = false;
    this.draw();
  }

  pan(dx, dy) {
    this.offset = [this.offset[0] + dx, this.offset[1] + dy];
    this.fitted = false;
    this.draw();
  }

  /** Change level and width of the window by shares of the usual width. */
  rewindow(level, width) {
    const [low, high] = this.window;
    const usual = this.usualWindow[1] - this.usualWindow[0];
    const middle = (low + high) / 2 + level * usual;
    const half = Math.max((high - low) / 2 + (width * usual) / 2, usual / 200, 0.5);
    this.window = [middle - half, middle + half];
    this.paint();
  }

  onScreen(x, y) {
    const [a, b] = toShown(this.slice.turn, x, y);
    return [(a + 0.5) * this.scale + this.offset[0], (b + 0.5) * this.scale + this.offset[1]];
  }

  stored(x, y) {
    const shown = [(x - this.offset[0]) / this.scale - 0.5, (y - this.offset[1]) / this.scale - 0.5];
    return toStored(this.slice.turn, ...shown);
  }

  /** Bring a point into sight, where it is not. */
  reveal(x, y) {
    if (!this.slice) return;
    const [a, b] = this.onScreen(x, y);
    const { clientWidth: wide, clientHeight: high } = this.canvas;
    if (a < 10 || b < 10 || a > wide - 10 || b > high - 10) this.pan(wide / 2 - a, high / 2 - b);
  }

  /** Spread the window over black and white, then draw. */
  paint() {
    if (this.slice) {
      const { rows, columns, greys } = this.slice;
      const [low, high] = this.window;
      const factor = 255 / (high - low);
      const image = new ImageData(columns, rows);
      const words = new Uint32Array(image.data.buffer);
      for (let n = 0; n < greys.length; n += 1) {
        const value = (greys[n] - low) * factor;
        const grey = value <= 0 ? 0 : value >= 255 ? 255 : value | 0;
        words[n] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
      }
      this.pixels.width = columns;
      this.pixels.height = rows;
      this.pixels.getContext("2d").putImageData(image, 0, 0);
    }
    this.draw();
  }

  draw() {
    const ratio = window.devicePixelRatio || 1;
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, this.canvas.clientWidth, this.canvas.clientHeight);
    if (!this.slice) return;
    pen.imageSmoothingEnabled = this.scale < 8;
    pen.imageSmoothingQuality = "high";
    const size = [this.slice.columns * this.scale, this.slice.rows * this.scale];
    pen.drawImage(this.pixels, ...this.offset, ...size);
    for (const mark of this.marks) if (mark.place !== this.chosen) this.drawMark(pen, mark, false);
    for (const mark of this.marks) if (mark.place === this.chosen) this.drawMark(pen, mark, true);
  }

  drawMark(pen, mark, chosen) {
    const [x, y] = this.onScreen(mark.x, mark.y);
    const own = mark.beyond ? BEYOND : mark.kind === "disc" ? DISC : VERTEBRA;
    const colour = chosen ? CHOSEN : own;
    pen.globalAlpha = this.mayEdit ? 1 : 0.55;
    if (this.boxes) {
      const [a, b] = this.onScreen(mark.box[0], mark.box[1]);
      const [c, d] = this.onScreen(mark.box[2], mark.box[3]);
      pen.setLineDash(mark.beyond ? [3, 4] : mark.kind === "disc" ? [7, 3] : []);
      pen.lineWidth = chosen ? 2.5 : 1.5;
      pen.strokeStyle = colour;
      pen.strokeRect(Math.min(a, c), Math.min(b, d), Math.abs(c - a), Math.abs(d - b));
      pen.setLineDash([]);
    }
    if (this.points || chosen) this.drawPoint(pen, mark, x, y, own, chosen);
    pen.globalAlpha = 1;
  }

  drawPoint(pen, mark, x, y, colour, chosen) {
    const radius = chosen ? 6.5 : 4.5;
    pen.beginPath();
    if (mark.kind === "disc") pen.arc(x, y, radius, 0, 2 * Math.PI);
    else pen.rect(x - radius, y - radius, 2 * radius, 2 * radius);
    pen.fillStyle = colour;
    pen.fill();
    pen.lineWidth = chosen ? 3 : 1.5;
    pen.strokeStyle = chosen ? CHOSEN : "#000";
    pen.stroke();
    pen.font = `${chosen ? "700 " : "600 "}${this.scale < 1.2 ? 12 : 13}px system-ui, sans-serif`;
    pen.textBaseline = "middle";
    // In front of the spine, where the text hides neither the canal nor the back of a disc.
    const edges = [mark.box[0], mark.box[2]].map((edge) => this.onScreen(edge, mark.y)[0]);
    const front = Math.min(...edges, x - 10) - 4;
    const fits = front - pen.measureText(mark.text).width > 4;
    pen.textAlign = fits ? "right" : "left";
    const at = fits ? front : Math.max(...edges, x + 10) + 4;
    pen.lineJoin = "round";
    pen.lineWidth = 4;
    pen.strokeStyle = "#000c";
    pen.strokeText(mark.text, at, y);
    pen.fillStyle = chosen ? CHOSEN : colour;
    pen.fillText(mark.text, at, y);
  }

  nearest(x, y) {
    let found = null;
    let least = NEAR;
    for (const mark of this.points ? this.marks : []) {
      const [a, b] = this.onScreen(mark.x, mark.y);
      const distance = Math.hypot(a - x, b - y);
      if (distance < least) [found, least] = [mark, distance];
    }
    return found;
  }

  down(event) {
    if (!this.slice) return;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const at = [event.offsetX, event.offsetY];
    this.touches.set(event.pointerId, at);
    if (this.touches.size === 2) {
      this.endDrag();
      this.gesture = { kind: "pinch", apart: this.apart() };
      return;
    }
    const mark = this.nearest(...at);
    if (event.button === 2 || event.shiftKey) this.gesture = { kind: "window", at };
    else if (mark && event.button === 0) {
      const [x, y] = this.onScreen(mark.x, mark.y);
      this.on.choose(mark.place);
      const grip = [x - at[0], y - at[1]];
      this.gesture = { kind: this.mayEdit ? "point" : "none", place: mark.place, grip, from: at, moved: false };
    } else this.gesture = { kind: "pan", at };
  }

  apart() {
    const [a, b] = [...this.touches.values()];
    return { length: Math.hypot(a[0] - b[0], a[1] - b[1]), middle: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2] };
  }

  move(event) {
    const at = [event.offsetX, event.offsetY];
    if (!this.slice) return;
    if (this.touches.has(event.pointerId)) this.touches.set(event.pointerId, at);
    const { gesture } = this;
    if (gesture === null) {
      this.canvas.style.cursor = this.nearest(...at) ? "move" : "grab";
    } else if (gesture.kind === "pinch" && this.touches.size === 2) {
      const now = this.apart();
      this.pan(now.middle[0] - gesture.apart.middle[0], now.middle[1] - gesture.apart.middle[1]);
      this.zoom(now.length / Math.max(gesture.apart.length, 1), ...now.middle);
      gesture.apart = now;
    } else if (gesture.kind === "pan") {
      this.pan(at[0] - gesture.at[0], at[1] - gesture.at[1]);
      gesture.at = at;
    } else if (gesture.kind === "window") {
      const { clientWidth: wide, clientHeight: high } = this.canvas;
      this.rewindow((2 * (at[1] - gesture.at[1])) / high, (4 * (at[0] - gesture.at[0])) / wide);
      gesture.at = at;
    } else if (gesture.kind === "point") {
      const far = Math.hypot(at[0] - gesture.from[0], at[1] - gesture.from[1]);
      if (gesture.moved || far > 3) {
        gesture.moved = true;
        this.on.drag(gesture.place, ...this.stored(at[0] + gesture.grip[0], at[1] + gesture.grip[1]), false);
      }
    }
  }

  up(event) {
    this.touches.delete(event.pointerId);
    this.endDrag();
    this.gesture = null;
  }

  endDrag() {
    if (this.gesture && this.gesture.kind === "point" && this.gesture.moved) this.on.drag(this.gesture.place, 0, 0, true);
  }

  wheel(event) {
    event.preventDefault();
    const step = event.deltaMode === 1 ? 20 : 1;
    this.zoom(Math.exp(-event.deltaY * step * 0.0015), event.offsetX, event.offsetY);
  }
}
