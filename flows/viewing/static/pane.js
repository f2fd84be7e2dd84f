// One view of a slide: OpenSeadragon over the server's pictures, and a canvas on it with everything that is drawn.

import { MAPS, FATES } from './colours.js';
import { slidePath } from './server.js';

const OUTLINE = '#1b7f5c';
const SELECTED = '#ff3b8d';

// it warns of every tile that comes after its slide was left, which is nobody's concern; errors stay
const quiet = () => {};
const CONSOLE = { log: quiet, debug: quiet, info: quiet, warn: quiet, assert: quiet, error: console.error.bind(console) };

export class Pane {
  constructor(host, slideId, picture, mpp, withNavigator) {
    this.slideId = slideId;
    this.picture = picture;
    this.mpp = mpp;
    this.heat = null; // {scale, opacity, fade, least}
    this.fate = null; // {fate, opacity, shown}
    this.places = null;
    this.outline = null;
    this.showOutline = false;
    this.showGrid = false;
    this.top = [];
    this.selected = null;
    this.shapes = null; // what draws annotations
    this.raster = null;
    window.OpenSeadragon.console = CONSOLE;
    this.viewer = window.OpenSeadragon({
      element: host,
      drawer: 'canvas',
      crossOriginPolicy: false,
      showNavigationControl: false,
      showNavigator: withNavigator,
      navigatorPosition: 'TOP_RIGHT',
      navigatorSizeRatio: 0.14,
      navigatorAutoFade: false,
      animationTime: 0.5,
      maxZoomPixelRatio: 4,
      minZoomImageRatio: 0.7,
      visibilityRatio: 0.3,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: false },
      gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: true },
      keyboardNavEnabled: false,
      imageSmoothingEnabled: true,
      timeout: 120000,
      tileRetryMax: 4,
      tileRetryDelay: 2000,
      tileSources: {
        width: picture.width,
        height: picture.height,
        tileSize: 256,
        tileOverlap: 0,
        maxLevel: picture.max_level,
        minLevel: 0,
        getTileUrl: (level, x, y) => slidePath(slideId, `/dz/${level}/${x}/${y}.jpg`),
      },
    });
    this.canvas = document.createElement('canvas');
    this.canvas.className = 'overlay';
    this.canvas.setAttribute('aria-hidden', 'true');
    this.viewer.canvas.append(this.canvas);
    this.viewer.addHandler('update-viewport', () => this.draw());
    this.viewer.addHandler('resize', () => this.draw());
    this.viewer.addHandler('open', () => this.draw());
    this.viewer.addHandler('animation', () => this.onMove?.());
    this.viewer.addHandler('canvas-key', (event) => { event.preventDefaultAction = true; });
    this.viewer.addHandler('canvas-click', (event) => {
      if (!event.quick) return;
      this.onClick?.(this.toImage(event.position), event);
    });
  }

  destroy() {
    this.onMove = this.onClick = null;
    this.viewer.destroy();
  }

  toImage(position) {
    const point = this.viewer.viewport.viewerElementToImageCoordinates(position);
    return [point.x, point.y];
  }

  // Screen pixels of image pixels: scale and origin, both of the frame that is on the screen now.
  transform() {
    const item = this.viewer.world.getItemAt(0);
    if (!item) return null;
    const at = (x, y) => this.viewer.viewport.pixelFromPoint(item.imageToViewportCoordinates(x, y, true), true);
    const origin = at(0, 0);
    return { scale: (at(this.picture.width, 0).x - origin.x) / this.picture.width, x: origin.x, y: origin.y };
  }

  setPlaces(places) {
    this.places = places;
    this.grid = gridOf(places);
    this.repaint();
  }

  repaint() {
    this.raster = null;
    this.draw();
  }

  tileAt([x, y]) {
    if (!this.places) return null;
    const { xy, tile_size: [width, height] } = this.places;
    let best = null;
    let nearest = Infinity;
    for (let i = 0; i < xy.length / 2; i += 1) {
      const dx = x - xy[2 * i];
      const dy = y - xy[2 * i + 1];
      if (dx < 0 || dy < 0 || dx >= width || dy >= height) continue;
      const distance = (dx - width / 2) ** 2 + (dy - height / 2) ** 2;
      if (distance < nearest) [best, nearest] = [i, distance];
    }
    return best;
  }

  goToTile(index, immediately = false) {
    const { xy, tile_size: [width, height] } = this.places;
    const grow = 6;
    const rect = this.viewer.viewport.imageToViewportRectangle(
      xy[2 * index] - (grow * width) / 2 + width / 2, xy[2 * index + 1] - (grow * height) / 2 + height / 2, grow * width, grow * height);
    this.viewer.viewport.fitBounds(rect, immediately);
  }

  draw() {
    const frame = this.transform();
    const { clientWidth: width, clientHeight: height } = this.viewer.container;
    if (!frame || !width) return;
    const ratio = window.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
    }
    const context = this.canvas.getContext('2d');
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.setTransform(ratio * frame.scale, 0, 0, ratio * frame.scale, ratio * frame.x, ratio * frame.y);
    const line = 1 / frame.scale; // one pixel of the screen
    if (this.places) {
      if (this.heat || this.fate) this.drawRaster(context);
      if (this.showGrid) this.drawGrid(context, line, frame);
    }
    if (this.showOutline && this.outline) this.drawOutline(context, line);
    if (this.places) this.drawChosen(context, line);
    this.shapes?.draw(context, line);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.drawScaleBar(context, frame, height);
  }

  drawRaster(context) {
    this.raster ??= this.makeRaster();
    context.imageSmoothingEnabled = false;
    context.globalAlpha = (this.fate ?? this.heat).opacity;
    const { canvas, left, top, width, height, rects } = this.raster;
    if (canvas) {
      context.drawImage(canvas, left, top, width, height);
    } else {
      const { xy, tile_size: [tileWidth, tileHeight] } = this.places;
      for (let i = 0; i < xy.length / 2; i += 1) {
        if (!rects[4 * i + 3]) continue;
        context.fillStyle = `rgba(${rects[4 * i]},${rects[4 * i + 1]},${rects[4 * i + 2]},${rects[4 * i + 3] / 255})`;
        context.fillRect(xy[2 * i], xy[2 * i + 1], tileWidth, tileHeight);
      }
    }
    context.globalAlpha = 1;
  }

  // RGBA of every tile.
  colours() {
    const num = this.places.xy.length / 2;
    const rgba = new Uint8ClampedArray(4 * num);
    if (this.fate) {
      for (let i = 0; i < num; i += 1) {
        const fate = this.fate.fate[i];
        rgba.set(FATES[fate].rgb, 4 * i);
        // most tiles enter: what was taken away must stand out, and the tissue be seen
        rgba[4 * i + 3] = this.fate.shown.has(fate) ? (fate === 0 ? 80 : 255) : 0;
      }
      return rgba;
    }
    const { scale, fade, least } = this.heat;
    const map = MAPS[scale.map];
    for (let i = 0; i < num; i += 1) {
      const t = scale.t[i];
      const at = 3 * Math.round(255 * t);
      const strength = scale.map === 'diverging' ? Math.abs(2 * t - 1) : t;
      rgba[4 * i] = map[at];
      rgba[4 * i + 1] = map[at + 1];
      rgba[4 * i + 2] = map[at + 2];
      rgba[4 * i + 3] = strength < least ? 0 : 255 * (fade ? 0.12 + 0.88 * strength : 1);
    }
    return rgba;
  }

  makeRaster() {
    const rgba = this.colours();
    const grid = this.grid;
    if (!grid) return { rects: rgba };
    const canvas = document.createElement('canvas');
    canvas.width = grid.columns;
    canvas.height = grid.rows;
    const context = canvas.getContext('2d');
    const image = context.createImageData(grid.columns, grid.rows);
    for (let i = 0; i < grid.cell.length; i += 1) {
      image.data.set(rgba.subarray(4 * i, 4 * i + 4), 4 * grid.cell[i]);
    }
    context.putImageData(image, 0, 0);
    return { canvas, left: grid.left, top: grid.top, width: grid.columns * grid.strideX, height: grid.rows * grid.strideY };
  }

  drawGrid(context, line, frame) {
    const { xy, tile_size: [width, height] } = this.places;
    if (width * frame.scale < 3) return; // lines would cover everything
    context.lineWidth = line;
    context.strokeStyle = 'rgba(20, 40, 60, 0.45)';
    context.beginPath();
    const corner = this.toImage(new window.OpenSeadragon.Point(0, 0));
    const far = this.toImage(new window.OpenSeadragon.Point(this.viewer.container.clientWidth, this.viewer.container.clientHeight));
    for (let i = 0; i < xy.length / 2; i += 1) {
      const x = xy[2 * i];
      const y = xy[2 * i + 1];
      if (x + width >= corner[0] && y + height >= corner[1] && x <= far[0] && y <= far[1]) context.rect(x, y, width, height);
    }
    context.stroke();
  }

  drawOutline(context, line) {
    context.lineWidth = 2 * line;
    context.strokeStyle = OUTLINE;
    context.beginPath();
    for (const ring of this.outline) {
      ring.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.closePath();
    }
    context.stroke();
  }

  drawChosen(context, line) {
    const { xy, tile_size: [width, height] } = this.places;
    context.lineWidth = 1.5 * line;
    context.strokeStyle = 'rgba(214, 39, 40, 0.95)';
    for (const index of this.top) context.strokeRect(xy[2 * index], xy[2 * index + 1], width, height);
    if (this.selected === null) return;
    context.lineWidth = 4 * line;
    context.strokeStyle = '#fff';
    context.strokeRect(xy[2 * this.selected], xy[2 * this.selected + 1], width, height);
    context.lineWidth = 2 * line;
    context.strokeStyle = SELECTED;
    context.strokeRect(xy[2 * this.selected], xy[2 * this.selected + 1], width, height);
  }

  drawScaleBar(context, frame, height) {
    const perPixel = (this.mpp ? this.mpp[0] : 1) / frame.scale; // µm, or pixels of the scan
    const most = 160 * perPixel;
    const decade = 10 ** Math.floor(Math.log10(most));
    const length = [5, 2, 1].map((factor) => factor * decade).find((value) => value <= most);
    const pixels = length / perPixel;
    const unit = this.mpp ? (length >= 1000 ? `${length / 1000} mm` : `${+length.toPrecision(3)} µm`) : `${length} px of the scan (no µm/px)`;
    const at = height - 18;
    context.font = '600 12px system-ui, sans-serif';
    const room = Math.max(pixels, context.measureText(unit).width) + 20;
    context.fillStyle = 'rgba(255, 255, 255, 0.86)';
    context.fillRect(10, at - 22, room, 34);
    context.fillStyle = '#16202a';
    context.fillRect(20, at, pixels, 3);
    context.fillRect(20, at - 4, 1.5, 11);
    context.fillRect(20 + pixels - 1.5, at - 4, 1.5, 11);
    context.fillText(unit, 20, at - 8);
  }
}

// Columns and rows of tiles that lie on a grid, whose starts were rounded; null where they lie anywhere.
export function gridOf({ xy, tile_size: size }) {
  const num = xy.length / 2;
  if (!num) return null;
  const axis = (offset) => {
    const values = [...new Set(Array.from({ length: num }, (_, i) => xy[2 * i + offset]))].sort((a, b) => a - b);
    const gaps = values.slice(1).map((value, i) => value - values[i]).filter((gap) => gap > 2);
    const gap = gaps.length ? Math.min(...gaps) : size[offset];
    const span = values[values.length - 1] - values[0];
    const steps = Math.round(span / gap);
    return { low: values[0], stride: steps ? span / steps : gap, count: steps + 1 };
  };
  const x = axis(0);
  const y = axis(1);
  if (x.count * y.count > 16e6) return null;
  const cell = new Int32Array(num);
  const taken = new Set();
  for (let i = 0; i < num; i += 1) {
    const column = Math.round((xy[2 * i] - x.low) / x.stride);
    const row = Math.round((xy[2 * i + 1] - y.low) / y.stride);
    if (Math.abs(x.low + column * x.stride - xy[2 * i]) > 3 || Math.abs(y.low + row * y.stride - xy[2 * i + 1]) > 3) return null;
    cell[i] = row * x.count + column;
    if (taken.has(cell[i])) return null;
    taken.add(cell[i]);
  }
  const left = x.low + (size[0] - x.stride) / 2;
  const top = y.low + (size[1] - y.stride) / 2;
  return { cell, columns: x.count, rows: y.count, strideX: x.stride, strideY: y.stride, left, top };
}

// Pan and zoom of one follow the other.
export function link(first, second) {
  let leader = null;
  const follow = (from, to) => {
    if (leader && leader !== from) return;
    leader = from;
    to.viewer.viewport.fitBounds(from.viewer.viewport.getBounds(true), true);
    to.draw();
    leader = null;
  };
  first.onMove = () => follow(first, second);
  second.onMove = () => follow(second, first);
}
