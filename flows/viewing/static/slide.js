// One slide: the scan with its layers, a second pane to compare, the strip of top tiles, and what is known of a tile.

import { AnnotationTool } from './annotate.js';
import { FATES, MAPS, difference, ranks, sequential } from './colours.js';
import { el, number, option, percent, replace, store, stored, typing, width } from './dom.js';
import { marks, toggleMark } from './marks.js';
import { Pane, link } from './pane.js';
import { get, getPacked, slidePath } from './server.js';
import { TileCard } from './tile_card.js';
import { addressOf, findRows } from './worklist.js';

const NUM_TOP = 12;
const RELATIONS = {
  held_out: 'held the slide out', validation: 'was chosen by it', train: 'was trained on it', new: 'does not know the slide', '': '',
};
const NONE = '';

export class SlidePage {
  constructor(page, context, slideId, asked) {
    this.page = page;
    this.context = context;
    this.slideId = slideId;
    this.asked = asked;
    this.abort = new AbortController();
    this.settings = { outline: false, grid: false, opacity: 0.55, scale: 'rank', map: 'viridis', fade: false, least: 0, ...stored('mhim-layers', {}) };
    this.heats = new Map();
    this.side = [{ model: null, against: NONE, mining: null }, { model: null, against: NONE, mining: null }];
    this.panes = [];
    document.title = `${slideId} · mhim`;
    replace(page, el('p', { class: 'waiting' }, `Opening ${slideId}…`));
    this.load();
  }

  destroy() {
    this.abort.abort();
    this.annotations?.destroy();
    for (const pane of this.panes) pane.destroy();
  }

  ask(path) {
    return get(slidePath(this.slideId, path), { signal: this.abort.signal, onSlow: () => this.slow() });
  }

  askPacked(path) {
    return getPacked(slidePath(this.slideId, path), { signal: this.abort.signal, onSlow: () => this.slow() });
  }

  slow() {
    this.context.notice('The store or the slide’s file is slow to answer; still waiting. You can go on with another slide.');
  }

  fail(error, again) {
    if (!this.abort.signal.aborted) this.context.fail(error, again);
  }

  async load() {
    try {
      this.facts = await this.ask('');
    } catch (error) {
      if (this.abort.signal.aborted) return;
      replace(this.page, el('p', { class: 'waiting' }, el('a', { href: addressOf(this.context.query) }, 'Back to the list')));
      this.fail(error, () => this.load());
      return;
    }
    this.layout();
    const [picture, places] = await Promise.allSettled([this.ask('/picture'), this.facts.row.num_tiles ? this.askPacked('/places') : Promise.resolve(null)]);
    if (this.abort.signal.aborted) return;
    if (picture.status === 'rejected') {
      replace(this.stage, el('div', { class: 'empty' }, el('p', {}, 'The slide cannot be shown.'), el('p', {}, picture.reason.message)));
      this.fail(picture.reason, () => this.load());
      return;
    }
    this.picture = picture.value;
    this.banner.textContent = this.picture.why ? (this.picture.has_file ? this.picture.why : `The slide’s file is not there (${this.picture.why}): what is drawn lies on white.`) : '';
    this.banner.hidden = !this.picture.why;
    this.panes = [this.makePane(this.hosts[0], 0)];
    if (places.status === 'rejected') {
      this.fail(places.reason, null);
      return;
    }
    this.places = places.value;
    if (!this.places) return;
    for (const pane of this.panes) pane.setPlaces(this.places);
    await this.firstHeat();
    const tile = Number(this.asked.get('tile'));
    if (this.asked.has('tile') && tile >= 0 && tile < this.places.num) this.choose(tile, true);
  }

  makePane(host, index) {
    const pane = new Pane(host, this.slideId, this.picture, this.facts.mpp, index === 0);
    pane.showGrid = this.settings.grid;
    pane.showOutline = this.settings.outline;
    pane.onClick = (point) => this.click(pane, point);
    pane.viewer.addOnceHandler('open', () => {
      if (index === 0) {
        this.annotations = new AnnotationTool(this, pane, this.annotationHost);
        if (this.settings.outline) this.loadOutline();
      }
    });
    return pane;
  }

  layout() {
    const { row } = this.facts;
    this.hosts = [el('div', { class: 'osd' }), el('div', { class: 'osd' })];
    this.captions = [el('div', { class: 'caption' }), el('div', { class: 'caption' })];
    this.frames = this.hosts.map((host, i) => el('div', { class: 'frame', hidden: i === 1 }, host, this.captions[i]));
    this.stage = el('div', { class: 'stage' }, this.frames);
    const { models } = this.facts;
    // its room is kept from the start, so that the slide does not move when it comes
    this.strip = el('div', { class: models.length || row.values.length ? 'strip expected' : 'strip', 'aria-label': 'Most attended tiles' });
    this.banner = el('div', { class: 'banner', hidden: true });
    this.panel = el('aside', { class: 'panel', 'aria-label': 'What is known, and layers' });
    this.annotationHost = el('div');
    this.card = new TileCard(this);
    replace(this.page, el('section', { class: 'slide' },
      el('div', { class: 'head' }, this.drawHead(row)),
      el('div', { class: 'left' }, this.banner, this.stage, this.strip),
      this.panel));
    this.drawPanel();
  }

  drawHead(row) {
    const marked = marks(this.context.about).has(this.slideId);
    this.star = el('button', { type: 'button', class: marked ? 'star on' : 'star', title: 'Mark (m)', 'aria-pressed': String(marked), onclick: () => this.mark() }, marked ? '★' : '☆');
    return [
      el('a', { class: 'back', href: addressOf(this.context.query), title: 'To the list (u)' }, '‹ list'),
      el('button', { type: 'button', title: 'Previous slide (p)', 'aria-label': 'Previous slide', onclick: () => this.step(-1) }, '‹'),
      el('button', { type: 'button', title: 'Next slide (n)', 'aria-label': 'Next slide', onclick: () => this.step(1) }, '›'),
      this.star,
      el('h1', {}, this.slideId),
      row.patient_id && el('span', {}, `patient ${row.patient_id}`),
      row.site && el('span', {}, row.site),
      row.label !== null && el('span', { class: 'chip' }, `label: ${row.label}`),
      row.predicted !== null && el('span', { class: row.right === null ? 'chip' : row.right ? 'chip good' : 'chip bad' }, `${row.right === false ? '✗ ' : row.right ? '✓ ' : ''}predicted: ${row.predicted}`),
    ];
  }

  drawPanel() {
    this.legend = el('div', { class: 'legend' });
    this.heatControls = el('div', { class: 'controls' });
    this.minedControls = el('div', { class: 'controls' });
    const section = (title, open, ...children) => el('details', { open }, el('summary', {}, title), children);
    const { models, mining } = this.facts;
    const hasHeat = models.length || this.facts.row.values.length;
    replace(this.panel,
      this.card.node,
      section('Prediction', true, this.drawPrediction()),
      hasHeat && section('Heat map', true, this.heatControls, this.legend),
      mining.length > 0 && section('What MHIM mined', false, this.minedControls),
      section('Layers', true, el('div', { class: 'controls' },
        this.toggle('Tissue outline', 'outline', 'o'), this.toggle('Tile grid', 'grid', 'g'))),
      section('Annotations', false, this.annotationHost),
      section('Facts', false, this.drawFacts()));
    this.drawHeatControls();
    this.drawMinedControls();
  }

  drawPrediction() {
    const { row, members } = this.facts;
    const { task } = this.context.about;
    if (!task) return el('p', { class: 'note' }, 'A store has no predictions; open a run to see them.');
    if (!row.values.length) return el('p', { class: 'note' }, this.whyNot(row));
    const lines = task.kind === 'classification'
      ? task.classes.map((name, i) => el('div', { class: 'bar' }, el('span', { title: name }, name),
        el('div', { class: 'track' }, el('div', { class: 'fill', style: { width: width(row.values[i]) } })),
        el('b', {}, row.values[i].toFixed(2)), el('small', {}, row.spread.length ? `± ${row.spread[i].toFixed(2)}` : '')))
      : [el('div', { class: 'bar' }, el('span', {}, task.kind === 'survival' ? 'risk' : 'value'), el('b', {}, number(row.values[0])), el('small', {}, row.spread.length ? `± ${number(row.spread[0])}` : ''))];
    const by = row.folds.length ? `by ${row.num_models === 1 ? 'the model' : `the mean of ${row.num_models} models`} of fold ${row.folds.join(', ')}, which held the slide out` : row.num_models === 1 ? 'by one model' : `by the mean of ${row.num_models} models`;
    return [lines, el('p', { class: 'note' }, by), members.length > 1 && el('p', { class: 'note' }, 'The prediction is of the patient, whose slides are ',
      members.map((slideId, i) => [i ? ', ' : '', slideId === this.slideId ? el('b', {}, slideId) : el('a', { href: `#/slide/${encodeURIComponent(slideId)}` }, slideId)]), '.')];
  }

  whyNot(row) {
    if (row.status === 'failed') return `${row.reason}: ${row.message}`;
    if (row.status !== 'ok') return row.status === 'empty' ? 'It has no tissue.' : 'It is not in the store.';
    const known = this.facts.models.length > 0 && this.facts.models.every(({ relation }) => relation === 'train' || relation === 'validation');
    return known ? 'Not predicted: every model was trained on it or chosen by it. What is drawn is what the models make of a slide that they know.' : 'Not predicted.';
  }

  drawFacts() {
    const { row, mpp, mpp_source: source, uri, num_bad_tiles: bad } = this.facts;
    const lines = [['Tiles', row.num_tiles?.toLocaleString('en') ?? '–'], ['µm/px', mpp ? `${number(mpp[0])} × ${number(mpp[1])} (${source})` : 'not stated'], bad && ['Unreadable tiles', bad], ['File', uri || 'not known']];
    return el('dl', { class: 'facts' }, lines.filter(Boolean).flatMap(([name, value]) => [el('dt', {}, name), el('dd', {}, String(value))]));
  }

  toggle(title, name, key) {
    return el('label', { class: 'toggle' }, el('input', { type: 'checkbox', checked: this.settings[name], 'data-toggle': name, onchange: (event) => this.set({ [name]: event.target.checked }) }), title, el('kbd', {}, key));
  }

  set(change) {
    Object.assign(this.settings, change);
    store('mhim-layers', this.settings);
    for (const name of Object.keys(change)) {
      const box = this.panel.querySelector(`[data-toggle="${name}"]`);
      if (box) box.checked = this.settings[name];
    }
    for (const pane of this.panes) {
      pane.showGrid = this.settings.grid;
      pane.showOutline = this.settings.outline;
    }
    if (this.settings.outline && !this.outline) this.loadOutline();
    this.paint();
  }

  async loadOutline() {
    this.outline = [];
    try {
      const found = await this.ask('/outline');
      this.outline = found.rings;
      if (found.why) this.context.notice(`No outline: ${found.why}.`);
    } catch (error) {
      this.outline = null;
      this.fail(error, () => this.loadOutline());
    }
    for (const pane of this.panes) {
      pane.outline = this.outline;
      pane.draw();
    }
  }

  // models to choose from: those of the run, and what was kept with the prediction
  choices() {
    const { models } = this.facts;
    const kept = !models.some(({ key }) => key === 'kept') && (this.context.about.kind === 'predictions' || !models.length) ? [{ key: 'kept', title: 'as it was kept with the prediction (mean)', relation: '' }] : [];
    return [...kept, ...models];
  }

  async firstHeat() {
    const choices = this.choices();
    if (!this.context.about.task || !choices.length) return;
    this.side[0].model = choices[0].key;
    const other = choices.find((choice) => choice.role === 'teacher' && choice.fold === choices[0].fold) ?? choices[1] ?? choices[0];
    this.side[1].model = other.key;
    await this.showHeat(0);
    this.drawHeatControls();
  }

  async heat(model) {
    if (!this.heats.has(model)) this.heats.set(model, await this.askPacked(`/heat?model=${encodeURIComponent(model)}`));
    return this.heats.get(model);
  }

  async showHeat(index) {
    const side = this.side[index];
    try {
      if (side.mining) await this.mine(side);
      if (side.model) side.first = await this.heat(side.model);
      side.second = side.against ? await this.heat(side.against) : null;
    } catch (error) {
      this.fail(error, () => this.showHeat(index));
      return;
    }
    if (index === 0 && side.first) this.showTop(side.first);
    this.paint();
    this.card.refresh();
  }

  paint() {
    const { opacity, scale, map, fade, least } = this.settings;
    this.panes.forEach((pane, index) => {
      const side = this.side[index];
      pane.heat = null;
      pane.fate = null;
      if (side.mining?.found) {
        pane.fate = { fate: side.mining.found.fate, opacity, shown: side.mining.shown };
      } else if (side.first && !side.hidden) {
        const colours = side.second
          ? difference(side.first.attention, side.second.attention)
          : sequential(side.first.attention, side.first.num_in_bag, scale, map);
        pane.heat = { scale: colours, opacity, fade, least };
      }
      pane.repaint();
      this.captions[index].textContent = this.caption(side);
    });
    this.drawLegend();
  }

  caption(side) {
    if (side.mining?.found) return `mined: fold ${side.mining.fold}, epoch ${side.mining.epoch}`;
    if (side.hidden || !side.model) return '';
    const title = (key) => this.choices().find((choice) => choice.key === key)?.title ?? key;
    return side.against ? `${title(side.model)} − ${title(side.against)}` : title(side.model);
  }

  drawHeatControls() {
    const choices = this.choices();
    if (!choices.length || !this.context.about.task) return;
    const picker = (index) => {
      const side = this.side[index];
      const words = (choice) => `${choice.title}${choice.relation ? ` (${RELATIONS[choice.relation]})` : ''}`;
      return el('div', { class: 'picker' },
        this.panes.length > 1 && el('b', {}, index ? 'right' : 'left'),
        el('select', { 'aria-label': 'Model', onchange: (event) => { side.model = event.target.value; side.mining = null; this.drawMinedControls(); this.showHeat(index); } }, choices.map((choice) => option(choice.key, words(choice), side.model))),
        el('select', { 'aria-label': 'Minus another model', onchange: (event) => { side.against = event.target.value; this.showHeat(index); } },
          option(NONE, 'minus: nothing', side.against), choices.filter((choice) => choice.key !== side.model).map((choice) => option(choice.key, `minus ${choice.title}`, side.against))));
    };
    const range = (name, title, minimum, maximum, words) => el('label', { class: 'range' }, el('span', {}, title), el('input', {
      type: 'range', min: minimum, max: maximum, step: 0.01, value: this.settings[name], oninput: (event) => { event.target.nextSibling.textContent = words(Number(event.target.value)); this.set({ [name]: Number(event.target.value) }); },
    }), el('output', {}, words(this.settings[name])));
    replace(this.heatControls,
      el('label', { class: 'toggle' }, el('input', { type: 'checkbox', checked: !this.side[0].hidden, 'data-toggle': 'heat', onchange: (event) => this.showOrHide(event.target.checked) }), 'Show', el('kbd', {}, 'h')),
      el('label', { class: 'toggle' }, el('input', { type: 'checkbox', checked: this.panes.length > 1, onchange: () => this.compare() }), 'Compare side by side', el('kbd', {}, 'c')),
      picker(0), this.panes.length > 1 && picker(1),
      el('div', { class: 'picker' },
        el('select', { 'aria-label': 'Scale', onchange: (event) => this.set({ scale: event.target.value }) }, option('rank', 'rank within the slide', this.settings.scale), option('share', 'attention, logarithmic', this.settings.scale)),
        el('select', { 'aria-label': 'Colours', onchange: (event) => this.set({ map: event.target.value }) }, option('viridis', 'viridis', this.settings.map), option('cividis', 'cividis', this.settings.map))),
      range('opacity', 'Opacity', 0, 1, (value) => percent(value)),
      range('least', 'Above', 0, 0.99, (value) => percent(value)),
      el('label', { class: 'toggle' }, el('input', { type: 'checkbox', checked: this.settings.fade, onchange: (event) => this.set({ fade: event.target.checked }) }), 'Fade what is low'));
  }

  drawLegend() {
    const pane = this.panes.find((each) => each.heat);
    const mined = this.side[0].mining?.found ?? this.side[1].mining?.found;
    if (!pane) {
      replace(this.legend, mined ? el('p', { class: 'note' }, 'The mined tiles are shown instead; choose a model to see its heat map.') : null);
      return;
    }
    const { ticks, caption, map } = pane.heat.scale;
    const canvas = el('canvas', { width: 256, height: 1, class: 'ramp', 'aria-hidden': 'true' });
    const picture = new ImageData(256, 1);
    for (let i = 0; i < 256; i += 1) picture.data.set([...MAPS[map].subarray(3 * i, 3 * i + 3), 255], 4 * i);
    canvas.getContext('2d').putImageData(picture, 0, 0);
    replace(this.legend, canvas, el('div', { class: 'ticks' }, ticks.map(({ text, more }) => el('span', {}, text, more && el('small', {}, more)))), el('p', { class: 'note' }, caption));
  }

  drawMinedControls() {
    const { mining } = this.facts;
    if (!mining.length) return;
    const active = this.side[0].mining;
    const chosen = active ?? { ...mining[0], epoch: mining[0].best_epoch, teacher: '', shown: new Set(FATES.map((_, i) => i)) };
    const show = async (change) => {
      Object.assign(chosen, change);
      this.side[0].mining = chosen;
      await this.showHeat(0);
      this.drawMinedControls();
    };
    const fit = mining.findIndex((each) => each.seed === chosen.seed && each.fold === chosen.fold);
    const words = (each) => `fold ${each.fold}${new Set(mining.map(({ seed }) => seed)).size > 1 ? ` · seed ${each.seed}` : ''} (${each.relation === 'train' ? 'was trained on it' : 'was not trained on it'})`;
    const found = active?.found;
    replace(this.minedControls,
      el('label', { class: 'toggle' }, el('input', { type: 'checkbox', checked: Boolean(active), onchange: (event) => { if (event.target.checked) show({}); else { this.side[0].mining = null; this.paint(); this.drawMinedControls(); } } }), 'Show'),
      el('div', { class: 'picker' }, el('select', { 'aria-label': 'Fold', onchange: (event) => { const next = mining[Number(event.target.value)]; show({ ...next, epoch: Math.min(chosen.epoch, next.num_epochs), found: null }); } }, mining.map((each, i) => option(String(i), words(each), String(fit)))),
        el('select', { 'aria-label': 'Teacher', onchange: (event) => show({ teacher: event.target.value }) }, option('', 'exact where it is quick, else nearest kept', chosen.teacher), option('stage1', 'teacher: stage-1 model', chosen.teacher), option('chosen', `teacher after epoch ${chosen.best_epoch}`, chosen.teacher), option('replayed', 'train again up to there: exact, slow', chosen.teacher))),
      el('label', { class: 'range' }, el('span', {}, 'Epoch'), el('input', { type: 'range', min: 1, max: chosen.num_epochs, step: 1, value: chosen.epoch, 'aria-label': 'Epoch', onchange: (event) => show({ epoch: Number(event.target.value) }), oninput: (event) => { event.target.nextSibling.textContent = event.target.value; } }), el('output', {}, String(chosen.epoch))),
      found && el('div', { class: 'fates' }, FATES.map((fate, i) => found.counts[fate.name] > 0 && el('label', { class: 'toggle' },
        el('input', { type: 'checkbox', checked: chosen.shown.has(i), onchange: (event) => { if (event.target.checked) chosen.shown.add(i); else chosen.shown.delete(i); this.paint(); } }),
        el('i', { style: { background: `rgb(${fate.rgb})` } }), `${fate.title}: ${found.counts[fate.name].toLocaleString('en')}`))),
      found && found.notes.map((note) => el('p', { class: 'note' }, note)));
  }

  async mine(side) {
    const { seed, fold, epoch, teacher } = side.mining;
    if (teacher === 'replayed') this.context.notice('Training is done again up to this step; that takes as long as it took.');
    side.mining.found = await this.askPacked(`/mined?${new URLSearchParams({ seed, fold, epoch, teacher })}`);
    if (teacher === 'replayed') this.context.notice('');
  }

  showOrHide(visible) {
    for (const side of this.side) side.hidden = !visible;
    const box = this.panel.querySelector('[data-toggle="heat"]');
    if (box) box.checked = visible;
    this.paint();
  }

  async compare() {
    if (!this.picture) return;
    if (this.panes.length > 1) {
      this.panes.pop().destroy();
      this.panes[0].onMove = null;
      this.frames[1].hidden = true;
      this.hosts[1].replaceChildren();
      this.drawHeatControls();
      this.paint();
      return;
    }
    this.frames[1].hidden = false;
    const bounds = this.panes[0].viewer.viewport.getBounds();
    const pane = this.makePane(this.hosts[1], 1);
    this.panes.push(pane);
    pane.outline = this.outline;
    if (this.places) pane.setPlaces(this.places);
    pane.top = this.panes[0].top;
    pane.selected = this.panes[0].selected;
    pane.viewer.addOnceHandler('open', () => {
      pane.viewer.viewport.fitBounds(bounds, true);
      link(...this.panes);
    });
    this.drawHeatControls();
    await this.showHeat(1);
    this.drawHeatControls();
  }

  showTop({ attention, num_in_bag: num }) {
    const order = Array.from(attention.keys()).sort((a, b) => attention[b] - attention[a] || a - b).slice(0, NUM_TOP);
    for (const pane of this.panes) pane.top = order;
    this.top = order;
    replace(this.strip, order.map((index, i) => el('button', {
      type: 'button', class: 'tile', title: `tile ${index}: ${(attention[index] * num).toPrecision(3)} × an even share`, onclick: () => this.choose(index, true),
    }, this.picture.has_file ? el('img', { loading: 'lazy', alt: `Tile ${index}`, src: slidePath(this.slideId, `/tiles/${index}.jpg?stand_in=1`) }) : el('span', { class: 'no-picture' }, `tile ${index}`), el('small', {}, `${i + 1} · ${number(attention[index] * num)}×`))));
  }

  click(pane, point) {
    if (this.annotations?.click(pane, point)) return;
    const index = pane.tileAt(point);
    if (index !== null) this.choose(index, false);
  }

  choose(index, move) {
    for (const pane of this.panes) {
      pane.selected = index;
      pane.draw();
    }
    if (move) this.panes[0].goToTile(index);
    this.card.show(index);
  }

  // the model that is asked about single tiles: what was kept of several answers no question
  asking() {
    const chosen = this.side[0].model ?? '';
    return chosen.startsWith('kept') ? this.facts.models.find(({ key }) => !key.startsWith('kept')) : this.facts.models.find(({ key }) => key === chosen);
  }

  rankOf(index) {
    const { first } = this.side[0];
    if (!first) return null;
    first.ranks ??= ranks(first.attention);
    return first.ranks[index];
  }

  mark() {
    const marked = toggleMark(this.context.about, this.slideId);
    this.star.textContent = marked ? '★' : '☆';
    this.star.classList.toggle('on', marked);
    this.star.setAttribute('aria-pressed', String(marked));
  }

  async step(direction) {
    const { context } = this;
    try {
      if (context.place === null) context.place = await this.findPlace();
      const offset = context.place + direction;
      if (offset < 0) return;
      const found = await findRows(context.query, context.about, { offset, limit: 1 });
      if (found.offset !== offset || !found.rows.length) {
        context.notice('This is the last slide of the list.');
        return;
      }
      context.place = offset;
      location.hash = `#/slide/${encodeURIComponent(found.rows[0].slide_id)}`;
    } catch (error) {
      this.fail(error, null);
    }
  }

  // where the slide stands in the list, of a page that was opened by its address
  async findPlace() {
    for (let offset = 0; ; offset += 500) {
      const found = await findRows(this.context.query, this.context.about, { offset, limit: 500 });
      const at = found.rows.findIndex((row) => row.slide_id === this.slideId || row.slide_ids.includes(this.slideId));
      if (at >= 0) return found.offset + at;
      if (offset + 500 >= found.num_found) return -1;
    }
  }

  key(event) {
    if (this.annotations?.key(event)) return true;
    if (typing(event)) return false;
    const keys = {
      n: () => this.step(1), p: () => this.step(-1), ArrowRight: () => this.step(1), ArrowLeft: () => this.step(-1), m: () => this.mark(),
      u: () => { location.hash = addressOf(this.context.query).slice(1); }, Escape: () => this.card.close(),
      h: () => this.showOrHide(Boolean(this.side[0].hidden)), o: () => this.set({ outline: !this.settings.outline }), g: () => this.set({ grid: !this.settings.grid }),
      c: () => this.compare(), 0: () => this.panes[0]?.viewer.viewport.goHome(), a: () => this.annotations?.startDrawing(),
      '[': () => this.opacity(-0.1), ']': () => this.opacity(0.1),
    };
    if (/^[1-9]$/.test(event.key)) {
      const index = this.top?.[Number(event.key) - 1];
      if (index !== undefined) this.choose(index, true);
      return true;
    }
    if (!keys[event.key]) return false;
    keys[event.key]();
    return true;
  }

  opacity(change) {
    this.set({ opacity: Math.min(1, Math.max(0, this.settings.opacity + change)) });
    this.drawHeatControls();
  }
}
