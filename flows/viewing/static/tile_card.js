// What is known of one tile: attention, evidence, the prediction with and without it, and the most similar tiles.

import { el, number, percent, replace } from './dom.js';
import { slidePath } from './server.js';

const COLUMNS = { tissue_share: 'Tissue', background_share: 'Not scanned', tile_class: 'Region', sharpness: 'Sharpness', pen_share: 'Pen', fold_share: 'Folds' };

export class TileCard {
  constructor(page) {
    this.page = page;
    this.index = null;
    this.node = el('div', { class: 'card', hidden: true });
  }

  close() {
    this.index = null;
    this.node.hidden = true;
    for (const pane of this.page.panes) {
      pane.selected = null;
      pane.draw();
    }
  }

  refresh() {
    if (this.index !== null) this.show(this.index);
  }

  async show(index) {
    const { page } = this;
    this.index = index;
    this.node.hidden = false;
    const facts = el('div', { class: 'note' }, 'Computing…');
    const nearest = el('div', { class: 'note' }, 'Looking for similar tiles…');
    replace(this.node,
      el('div', { class: 'card-head' }, el('b', {}, `Tile ${index}`), el('button', { type: 'button', 'aria-label': 'Close', title: 'Close (Esc)', onclick: () => this.close() }, '×')),
      page.picture.has_file && el('img', { class: 'large', alt: `Tile ${index}`, src: slidePath(page.slideId, `/tiles/${index}.jpg?stand_in=1`) }),
      facts, el('h3', {}, 'Most similar tiles in the cohort'), nearest);
    this.node.scrollIntoView({ block: 'nearest' });
    const current = () => this.index === index && !page.abort.signal.aborted;
    const asking = page.asking();
    page.ask(`/tiles/${index}?model=${encodeURIComponent(asking?.key ?? '')}`)
      .then((found) => current() && replace(facts, this.drawFacts(found, asking)))
      .catch((error) => current() && replace(facts, error.message));
    page.ask(`/tiles/${index}/nearest`)
      .then((found) => current() && replace(nearest, this.drawNearest(found)))
      .catch((error) => current() && replace(nearest, error.message));
  }

  drawFacts(found, asking) {
    const { page } = this;
    const { task } = page.context.about;
    const { first } = page.side[0];
    const lines = [];
    if (first) {
      const attention = first.attention[found.index];
      lines.push(['Attention', `${number(attention * first.num_in_bag)} × an even share`], ['Rank in the slide', percent(page.rankOf(found.index), 1)]);
    }
    for (const [name, value] of Object.entries(found.columns)) {
      if (value !== '') lines.push([COLUMNS[name] ?? name, typeof value === 'number' && name.endsWith('share') ? percent(value) : typeof value === 'number' ? number(value) : value]);
    }
    return [
      el('dl', { class: 'facts' }, lines.flatMap(([name, value]) => [el('dt', {}, name), el('dd', {}, String(value))])),
      found.evidence && task && el('table', { class: 'evidence' },
        el('thead', {}, el('tr', {}, el('th', {}, 'Evidence for'), el('th', {}, 'value'), el('th', {}, 'rank'))),
        el('tbody', {}, found.evidence.map((value, i) => el('tr', {}, el('td', {}, found.evidence.length === task.classes.length ? task.classes[i] : `output ${i}`), el('td', {}, value.toPrecision(2)), el('td', {}, percent(found.evidence_rank[i])))))),
      found.outputs && this.drawWithout(found, task, asking),
    ];
  }

  drawWithout(found, task, asking) {
    const names = task.kind === 'classification' ? task.classes : [task.kind === 'survival' ? 'risk' : 'value'];
    if (!found.outputs_without) return el('p', { class: 'note' }, 'It is the only tile: without it there is nothing to predict from.');
    const shown = names.length === 2 ? [1] : names.map((_, i) => i);
    return el('table', { class: 'evidence' },
      el('thead', {}, el('tr', {}, el('th', {}, asking.title), el('th', {}, 'with'), el('th', {}, 'without'), el('th', {}, 'change'))),
      el('tbody', {}, shown.map((i) => {
        const change = found.outputs_without[i] - found.outputs[i];
        return el('tr', {}, el('td', {}, task.kind === 'classification' ? `P(${names[i]})` : names[i]), el('td', {}, found.outputs[i].toFixed(4)), el('td', {}, found.outputs_without[i].toFixed(4)), el('td', {}, `${change > 0 ? '+' : change < 0 ? '−' : ''}${Math.abs(change).toPrecision(2)}`));
      })));
  }

  drawNearest(found) {
    return [
      el('div', { class: 'near' }, found.neighbours.map(({ slide_id: slideId, row, similarity, label }) => el('a', {
        href: `#/slide/${encodeURIComponent(slideId)}?tile=${row}`, title: `${slideId}, tile ${row}${label ? `, label ${label}` : ''}`,
      }, el('img', { loading: 'lazy', alt: '', src: slidePath(slideId, `/tiles/${row}.jpg?stand_in=1`) }),
      el('small', {}, similarity.toFixed(2), label ? ` · ${label}` : '')))),
      el('p', { class: 'note' }, `Cosine of the features, among a sample of ${found.num_sampled.toLocaleString('en')} tiles of ${found.num_sampled_slides} slides (of ${found.num_tiles.toLocaleString('en')} tiles of ${found.num_slides} slides).`,
        found.left_out.length > 0 && ` ${found.left_out.length} slides could not be read.`),
    ];
  }
}
