// Polygons with classes, drawn over the scan and saved as GeoJSON in versions.

import { CLASS_COLOURS } from './colours.js';
import { el, option, replace, store, stored, typing } from './dom.js';
import { get, post, slidePath } from './server.js';

const CLASSES = ['Tumor', 'Stroma', 'Necrosis', 'Artefact', 'Other'];
const GRIP_PX = 7;

function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

function inside([x, y], ring) {
  let within = false;
  for (let i = 0, j = ring.length - 1; i < ring.length; j = i, i += 1) {
    const [xi, yi] = ring[i];
    const [xj, yj] = ring[j];
    if ((yi > y) !== (yj > y) && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) within = !within;
  }
  return within;
}

export class AnnotationTool {
  constructor(page, pane, host) {
    this.page = page;
    this.pane = pane;
    this.host = host;
    this.features = [];
    this.version = 0;
    this.drawing = null; // points of the polygon under way
    this.current = null;
    this.changed = false;
    this.className = stored('mhim-class', CLASSES[0]);
    this.canSave = page.context.about.can_save;
    pane.shapes = this;
    const { viewer } = pane;
    viewer.addHandler('canvas-double-click', (event) => { if (this.drawing) { event.preventDefaultAction = true; this.finish(); } });
    viewer.addHandler('canvas-press', (event) => { this.grip = this.gripAt(pane.toImage(event.position)); });
    viewer.addHandler('canvas-drag', (event) => {
      if (!this.grip) return;
      event.preventDefaultAction = true;
      const point = pane.toImage(event.position).map((value) => Math.round(value));
      this.grip.ring[this.grip.at] = point;
      if (this.grip.at === 0) this.grip.ring[this.grip.ring.length - 1] = point;
      this.touch();
    });
    viewer.addHandler('canvas-drag-end', () => { this.grip = null; });
    this.leave = (event) => { if (this.changed) event.preventDefault(); };
    window.addEventListener('beforeunload', this.leave);
    this.load();
  }

  destroy() {
    window.removeEventListener('beforeunload', this.leave);
    if (this.changed) this.page.context.notice(`Annotations of ${this.page.slideId} were not saved.`);
  }

  async load() {
    try {
      const saved = await get(slidePath(this.page.slideId, '/annotation'), { signal: this.page.abort.signal });
      this.take(saved);
    } catch (error) {
      this.page.fail(error, () => this.load());
    }
  }

  take(saved) {
    this.saved = saved;
    this.version = saved?.version ?? 0;
    this.features = structuredClone(saved?.document?.features ?? []).filter((feature) => ['Polygon', 'MultiPolygon'].includes(feature.geometry?.type));
    this.changed = false;
    this.current = null;
    this.draw_();
  }

  rings(feature) {
    const { type, coordinates } = feature.geometry;
    return type === 'Polygon' ? coordinates : coordinates.flat();
  }

  nameOf(feature) {
    return feature.properties?.classification?.name ?? 'unclassified';
  }

  colourOf(feature) {
    const colour = feature.properties?.classification?.color;
    return Array.isArray(colour) && colour.length === 3 ? `rgb(${colour.map((value) => Number(value) || 0)})` : CLASS_COLOURS[7];
  }

  // --- on the scan ---

  draw(context, line) {
    for (const feature of this.features) {
      const colour = this.colourOf(feature);
      context.beginPath();
      for (const ring of this.rings(feature)) {
        ring.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
        context.closePath();
      }
      context.lineWidth = (feature === this.current ? 3 : 2) * line;
      context.strokeStyle = colour;
      context.globalAlpha = 0.14;
      context.fillStyle = colour;
      context.fill('evenodd');
      context.globalAlpha = 1;
      context.stroke();
    }
    if (this.current && this.canSave) {
      context.fillStyle = '#fff';
      context.strokeStyle = '#16202a';
      context.lineWidth = line;
      for (const ring of this.rings(this.current)) {
        for (const [x, y] of ring) {
          context.fillRect(x - 3.5 * line, y - 3.5 * line, 7 * line, 7 * line);
          context.strokeRect(x - 3.5 * line, y - 3.5 * line, 7 * line, 7 * line);
        }
      }
    }
    if (this.drawing?.length) {
      context.beginPath();
      this.drawing.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.lineWidth = 2 * line;
      context.strokeStyle = '#ff3b8d';
      context.stroke();
      for (const [x, y] of this.drawing) {
        context.fillStyle = '#ff3b8d';
        context.fillRect(x - 3 * line, y - 3 * line, 6 * line, 6 * line);
      }
    }
  }

  gripAt(point) {
    if (!this.current || !this.canSave || this.drawing) return null;
    const reach = GRIP_PX / this.pane.transform().scale;
    for (const ring of this.rings(this.current)) {
      const at = ring.findIndex(([x, y]) => Math.hypot(x - point[0], y - point[1]) < reach);
      if (at >= 0) return { ring, at: at === ring.length - 1 ? 0 : at };
    }
    return null;
  }

  // True: the click was for drawing, or on a polygon.
  click(pane, point) {
    if (pane !== this.pane) return false;
    if (this.drawing) {
      this.drawing.push(point.map((value) => Math.round(value)));
      pane.draw();
      this.draw_();
      return true;
    }
    if (!this.host.closest('details').open) return false;
    const hit = this.features.findLast((feature) => inside(point, this.rings(feature)[0]));
    if (!hit && !this.current) return false;
    this.current = hit ?? null;
    this.draw_();
    return Boolean(hit);
  }

  startDrawing() {
    if (!this.canSave) {
      this.page.context.notice('Annotations cannot be changed here (read_only=true, or no place to save them).');
      return;
    }
    this.host.closest('details').open = true;
    this.drawing = [];
    this.current = null;
    this.draw_();
  }

  finish() {
    const points = this.drawing.filter(([x, y], i, all) => i === 0 || x !== all[i - 1][0] || y !== all[i - 1][1]);
    this.drawing = null;
    if (points.length >= 3) {
      const feature = { type: 'Feature', id: crypto.randomUUID?.() ?? `${Date.now()}`, geometry: { type: 'Polygon', coordinates: [[...points, points[0]]] }, properties: { objectType: 'annotation' } };
      this.classify(feature, this.className);
      this.features.push(feature);
      this.current = feature;
      this.touch();
    }
    this.draw_();
  }

  classify(feature, name) {
    const known = [...new Set([...CLASSES, ...this.features.map((each) => this.nameOf(each))])];
    const at = known.includes(name) ? known.indexOf(name) : known.length;
    const same = this.features.find((each) => this.nameOf(each) === name)?.properties?.classification?.color;
    feature.properties.classification = { name, color: same ?? rgb(CLASS_COLOURS[at % CLASS_COLOURS.length]) };
  }

  touch() {
    this.changed = true;
    this.pane.draw();
    this.draw_();
  }

  key(event) {
    if (typing(event)) return false;
    if (this.drawing && event.key === 'Enter') this.finish();
    else if (this.drawing && event.key === 'Escape') { this.drawing = null; this.draw_(); } else if (this.drawing && event.key === 'Backspace') { this.drawing.pop(); this.draw_(); } else if (this.current && this.canSave && event.key === 'Delete') this.remove(this.current);
    else return false;
    this.pane.draw();
    return true;
  }

  remove(feature) {
    this.features = this.features.filter((each) => each !== feature);
    this.current = null;
    this.touch();
  }

  // --- beside it ---

  draw_() {
    const { about } = this.page.context;
    const names = [...new Set([...CLASSES, ...this.features.map((feature) => this.nameOf(feature)), this.className])];
    const pick = (name) => {
      let chosen = name;
      if (name === '+') chosen = (window.prompt('Name of the class') ?? '').trim() || this.className;
      this.className = chosen;
      store('mhim-class', chosen);
      if (this.current) { this.classify(this.current, chosen); this.touch(); }
      this.draw_();
    };
    replace(this.host, !about.annotations
      ? el('p', { class: 'note' }, 'annotations= says where they are; there is no such place here.')
      : [
        this.canSave && el('div', { class: 'row' },
          el('select', { 'aria-label': 'Class', onchange: (event) => pick(event.target.value) }, names.map((name) => option(name, name, this.current ? this.nameOf(this.current) : this.className)), option('+', 'another class…', '')),
          el('button', { type: 'button', class: this.drawing ? 'active' : '', onclick: () => (this.drawing ? this.finish() : this.startDrawing()) }, this.drawing ? 'Close the polygon' : 'Draw (a)'),
          this.current && el('button', { type: 'button', onclick: () => this.remove(this.current) }, 'Delete')),
        this.drawing && el('p', { class: 'note' }, 'Click for each corner; Enter or a double click closes the polygon, Esc gives it up.'),
        this.current && this.canSave && !this.drawing && el('p', { class: 'note' }, 'Drag a corner to move it.'),
        this.features.length
          ? el('ul', { class: 'shapes' }, this.features.map((feature) => el('li', {}, el('button', { type: 'button', class: feature === this.current ? 'active' : '', onclick: () => this.goTo(feature) }, el('i', { style: { background: this.colourOf(feature) } }), this.nameOf(feature)))))
          : el('p', { class: 'note' }, 'Nothing is drawn on this slide.'),
        this.canSave && el('div', { class: 'row' },
          el('input', { placeholder: 'Your name', 'aria-label': 'Your name', value: stored('mhim-author', ''), oninput: (event) => store('mhim-author', event.target.value) }),
          el('button', { type: 'button', class: 'strong', disabled: !this.changed, onclick: () => this.save() }, 'Save')),
        el('p', { class: 'note' }, this.saved ? `Version ${this.version}${this.saved.author ? ` by ${this.saved.author}` : ''}${this.saved.saved_at ? `, ${this.saved.saved_at.replace('T', ' ').replace('+00:00', ' UTC')}` : ''}. ` : 'Not saved yet. ', this.changed && el('b', {}, 'Changed since. '),
          this.saved && el('a', { href: slidePath(this.page.slideId, '/annotation.geojson'), download: `${this.page.slideId}.geojson` }, 'GeoJSON for QuPath')),
      ]);
    this.pane.draw();
  }

  goTo(feature) {
    this.current = feature;
    const points = this.rings(feature).flat();
    const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
    const [left, top, right, bottom] = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
    const margin = 0.4 * Math.max(right - left, bottom - top);
    const { viewport } = this.pane.viewer;
    viewport.fitBounds(viewport.imageToViewportRectangle(left - margin, top - margin, right - left + 2 * margin, bottom - top + 2 * margin));
    this.draw_();
  }

  async save() {
    const author = stored('mhim-author', '').trim();
    if (!author) {
      this.page.context.notice('Give your name first: it is kept with the annotation.');
      return;
    }
    try {
      const document = { type: 'FeatureCollection', features: this.features };
      const saved = await post(slidePath(this.page.slideId, '/annotation'), { author, based_on: this.version, document });
      this.take(saved);
      this.page.context.notice(`Saved as version ${saved.version}.`);
    } catch (error) {
      this.page.fail(error, null);
    }
  }
}
