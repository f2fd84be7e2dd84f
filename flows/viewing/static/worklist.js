// The worklist: slides or patients, searched, filtered, sorted and paged on the server.

import { el, number, option, percent, replace, typing, width } from './dom.js';
import { marks, toggleMark } from './marks.js';
import { post, slidePath } from './server.js';

const PAGE = 100;
export const START = { text: '', label: '', predicted: '', outcome: '', status: '', site: '', sort: 'slide', descending: false, by_patient: false, marked: false, offset: 0 };
const OUTCOMES = { right: '✓ right', wrong: '✗ wrong', open: 'open' };
const STATUSES = { ok: 'with tiles', empty: 'no tissue', failed: 'failed', absent: 'not in the store' };

// The query in the address, so that a list can be sent to somebody and the way back leads to it.
export function queryOf(text) {
  const query = { ...START };
  for (const [name, value] of new URLSearchParams(text)) {
    if (!(name in START)) continue;
    const kind = typeof START[name];
    query[name] = kind === 'boolean' ? value === 'true' : kind === 'number' ? Number(value) || 0 : value;
  }
  return query;
}

export function addressOf(query) {
  const changed = Object.entries(query).filter(([name, value]) => value !== START[name]);
  return `#/?${new URLSearchParams(changed)}`;
}

export async function findRows(query, about, { offset, limit = PAGE, signal, onSlow } = {}) {
  const { marked, ...asked } = query;
  if (marked) asked.only = [...marks(about)];
  return post('/api/worklist', { ...asked, offset: offset ?? query.offset, limit }, { signal, onSlow });
}

export class WorklistPage {
  constructor(page, context) {
    this.context = context;
    this.query = context.query;
    this.current = 0;
    this.rows = [];
    this.table = el('tbody');
    this.status = el('p', { class: 'count', role: 'status' });
    this.pager = el('div', { class: 'pager' });
    this.head = el('thead');
    this.search = el('input', {
      type: 'search', placeholder: 'Search slide or patient  ( / )', 'aria-label': 'Search slide or patient', value: this.query.text,
      oninput: () => this.later({ text: this.search.value }),
    });
    this.filters = el('div', { class: 'filters' });
    replace(page,
      el('section', { class: 'worklist' },
        el('div', { class: 'tools' }, this.search, this.filters, this.status, this.pager),
        el('div', { class: 'notes' }, context.about.notes.map((note) => el('p', {}, note))),
        el('div', { class: 'scroll' }, el('table', {}, this.head, this.table))));
    this.drawFilters();
    this.load();
  }

  destroy() {
    this.abort?.abort();
    clearTimeout(this.timer);
  }

  later(change) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.change(change), 150);
  }

  change(change) {
    this.query = { offset: 0, ...this.query, ...change, ...('offset' in change ? {} : { offset: 0 }) };
    this.context.query = this.query;
    history.replaceState(null, '', addressOf(this.query));
    this.current = 0;
    this.drawFilters();
    this.load();
  }

  drawFilters() {
    const { facets, task } = this.context.about;
    const select = (name, title, values, words = {}) => Object.keys(values).length > (name === 'label' || name === 'predicted' ? 0 : 1) && el('select', {
      'aria-label': title, class: this.query[name] ? 'active' : '', onchange: (event) => this.change({ [name]: event.target.value }),
    }, option('', title, this.query[name]), Object.entries(values).map(([value, count]) => option(value, `${words[value] ?? value} (${count})`, this.query[name])));
    const few = (values) => (Object.keys(values).length <= 60 ? values : {});
    replace(this.filters,
      select('label', 'Label: all', few(facets.labels)),
      task?.kind === 'classification' && select('predicted', 'Prediction: all', facets.predicted),
      task?.kind === 'classification' && select('outcome', 'Outcome: all', facets.outcomes, OUTCOMES),
      select('site', 'Site: all', few(facets.sites)),
      select('status', 'Slides: all', facets.statuses, STATUSES),
      el('label', { class: 'toggle' }, el('input', { type: 'checkbox', checked: this.query.by_patient, onchange: (event) => this.change({ by_patient: event.target.checked }) }), 'by patient'),
      el('label', { class: 'toggle' }, el('input', { type: 'checkbox', checked: this.query.marked, onchange: (event) => this.change({ marked: event.target.checked }) }), `marked (${marks(this.context.about).size})`),
      el('button', { type: 'button', class: 'quiet', title: 'Copy the ids of the marked slides', onclick: () => this.copyMarks() }, 'copy marked ids'));
  }

  async copyMarks() {
    const ids = [...marks(this.context.about)].join('\n');
    try {
      await navigator.clipboard.writeText(ids);
      this.context.notice(ids ? 'The ids of the marked slides are in the clipboard.' : 'No slide is marked.');
    } catch {
      this.context.notice(ids || 'No slide is marked.');
    }
  }

  async load() {
    this.abort?.abort();
    this.abort = new AbortController();
    const { signal } = this.abort;
    try {
      const found = await findRows(this.query, this.context.about, { signal, onSlow: () => this.context.notice('The list is slow to come; still waiting.') });
      this.rows = found.rows;
      this.query.offset = found.offset;
      this.drawHead();
      this.drawRows();
      this.drawPager(found);
    } catch (error) {
      if (!signal.aborted) this.context.fail(error, () => this.load());
    }
  }

  drawHead() {
    const { task, facets } = this.context.about;
    const column = (sort, title, attributes = {}) => {
      const active = this.query.sort === sort;
      const direction = active ? (this.query.descending ? 'descending' : 'ascending') : 'none';
      return el('th', { scope: 'col', 'aria-sort': direction, ...attributes }, el('button', {
        type: 'button', class: active ? 'active' : '', onclick: () => this.change({ sort, descending: active ? !this.query.descending : sort === 'error' || sort === 'spread' }),
      }, title, el('span', { class: 'arrow' }, active ? (this.query.descending ? '▼' : '▲') : '')));
    };
    const probability = task?.kind === 'classification' ? `P(${task.classes[task.classes.length - 1]})` : task?.kind === 'survival' ? 'Risk' : 'Value';
    replace(this.head, el('tr', {},
      el('th', { scope: 'col', 'aria-label': 'Marked' }), el('th', { scope: 'col', 'aria-label': 'Picture' }),
      column(this.query.by_patient ? 'patient' : 'slide', this.query.by_patient ? 'Patient' : 'Slide'), !this.query.by_patient && column('patient', 'Patient'),
      Object.keys(facets.sites).length > 0 && column('site', 'Site'), column('label', 'Label'),
      task && column('predicted', task.kind === 'classification' ? 'Prediction' : ''), task && column('value', probability), facets.has_spread && column('spread', '± models', { class: 'number' }), task && column('error', 'Error', { class: 'number' }),
      column('tiles', 'Tiles', { class: 'number' }), column('status', 'State')));
  }

  drawRows() {
    const marked = marks(this.context.about);
    replace(this.table, this.rows.map((row, index) => this.drawRow(row, index, marked)));
    if (!this.rows.length) replace(this.table, el('tr', {}, el('td', { colSpan: 12, class: 'none' }, 'No slide fits.')));
    this.focusRow();
  }

  drawRow(row, index, marked) {
    const { task, facets } = this.context.about;
    const open = () => this.open(index);
    const isMarked = marked.has(row.slide_id);
    const hasPicture = row.status === 'ok' || row.status === 'empty' || row.status === 'absent';
    return el('tr', { class: row.right === false ? 'wrong' : '', onclick: open, 'data-slide': row.slide_id },
      el('td', { class: 'mark' }, el('button', {
        type: 'button', class: isMarked ? 'star on' : 'star', 'aria-label': isMarked ? 'Remove the mark' : 'Mark', 'aria-pressed': String(isMarked),
        onclick: (event) => { event.stopPropagation(); this.mark(index); },
      }, isMarked ? '★' : '☆')),
      el('td', { class: 'picture' }, hasPicture && el('img', {
        loading: 'lazy', alt: '', width: 56, height: 44, src: slidePath(row.slide_id, '/thumbnail.jpg?stand_in=1'),
      })),
      el('td', { class: 'name' }, this.query.by_patient
        ? [el('span', {}, row.patient_id), el('small', {}, row.slide_ids.length === 1 ? row.slide_id : `${row.slide_ids.length} slides, mean`)]
        : el('a', { href: `#/slide/${encodeURIComponent(row.slide_id)}`, onclick: (event) => { event.preventDefault(); } }, row.slide_id)),
      !this.query.by_patient && el('td', {}, row.patient_id || '–'),
      Object.keys(facets.sites).length > 0 && el('td', {}, row.site ?? '–'),
      el('td', {}, row.label ?? '–'),
      task && el('td', {}, task.kind === 'classification' ? this.outcome(row) : ''),
      task && el('td', {}, this.value(row)),
      facets.has_spread && el('td', { class: 'number' }, row.spread.length ? number(row.spread[row.spread.length - 1]) : ''),
      task && el('td', { class: 'number' }, row.error === null ? '' : number(row.error)),
      el('td', { class: 'number' }, row.num_tiles === null ? '–' : row.num_tiles.toLocaleString('en')),
      el('td', { class: `state ${row.status}` }, row.status === 'ok' ? '' : [STATUSES[row.status], row.reason && el('small', { title: row.message }, `${row.reason}: ${row.message}`)]));
  }

  outcome(row) {
    if (row.predicted === null) return '–';
    if (row.right === null) return row.predicted;
    return [el('span', { class: row.right ? 'chip good' : 'chip bad' }, row.right ? '✓' : '✗'), ` ${row.predicted}`];
  }

  value(row) {
    const { task } = this.context.about;
    if (!row.values.length) return '–';
    const value = row.values[row.values.length - 1];
    if (task.kind !== 'classification') return number(value);
    const spread = row.spread.length ? row.spread[row.spread.length - 1] : 0;
    return el('div', { class: 'probability', title: task.classes.map((name, i) => `${name}: ${percent(row.values[i], 1)}`).join('\n') },
      el('div', { class: 'track' }, el('div', { class: 'fill', style: { width: width(value) } }),
        spread > 0 && el('div', { class: 'whisker', style: { left: width(Math.max(0, value - spread)), width: width(Math.min(1, value + spread) - Math.max(0, value - spread)) } })),
      el('span', {}, value.toFixed(2)));
  }

  drawPager(found) {
    const last = Math.min(found.offset + found.rows.length, found.num_found);
    const what = this.query.by_patient ? 'patients' : 'slides';
    replace(this.status, found.num_found ? `${(found.offset + 1).toLocaleString('en')}–${last.toLocaleString('en')} of ${found.num_found.toLocaleString('en')} ${what}` : `no ${what}`);
    const step = (offset, title, enabled) => el('button', { type: 'button', disabled: !enabled, 'aria-label': title, title, onclick: () => this.change({ offset }) }, title.startsWith('Previous') ? '‹' : '›');
    replace(this.pager, step(Math.max(0, found.offset - PAGE), 'Previous page', found.offset > 0), step(found.offset + PAGE, 'Next page', last < found.num_found));
    this.numFound = found.num_found;
  }

  focusRow() {
    [...this.table.children].forEach((node, i) => node.classList.toggle('current', i === this.current));
    this.table.children[this.current]?.scrollIntoView({ block: 'nearest' });
  }

  mark(index) {
    const row = this.rows[index];
    if (!row) return;
    toggleMark(this.context.about, row.slide_id);
    this.drawFilters();
    this.drawRows();
  }

  open(index) {
    const row = this.rows[index];
    if (!row) return;
    this.context.place = this.query.offset + index;
    location.hash = `#/slide/${encodeURIComponent(row.slide_id)}`;
  }

  key(event) {
    if (event.key === 'Escape' && typing(event)) { event.target.blur(); return true; }
    if (typing(event)) return false;
    const step = { ArrowDown: 1, j: 1, n: 1, ArrowUp: -1, k: -1, p: -1 }[event.key];
    if (step) {
      this.current = Math.min(Math.max(0, this.current + step), this.rows.length - 1);
      this.focusRow();
    } else if (event.key === 'Enter') this.open(this.current);
    else if (event.key === 'm') this.mark(this.current);
    else if (event.key === '/') this.search.focus();
    else if (event.key === 'PageDown' && this.query.offset + PAGE < this.numFound) this.change({ offset: this.query.offset + PAGE });
    else if (event.key === 'PageUp' && this.query.offset > 0) this.change({ offset: Math.max(0, this.query.offset - PAGE) });
    else return false;
    return true;
  }
}
