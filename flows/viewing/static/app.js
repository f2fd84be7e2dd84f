// The pages of the viewer, by what stands behind the # of the address.

import { el, replace, store, stored, typing } from './dom.js';
import { get } from './server.js';
import { SlidePage } from './slide.js';
import { START, WorklistPage, addressOf, queryOf } from './worklist.js';

const KEYS = [
  ['n  p', 'next and previous slide'], ['m', 'mark the slide'], ['/', 'search'], ['Enter', 'open the slide'], ['u', 'back to the list'],
  ['h', 'heat map'], ['o', 'outline of the tissue'], ['g', 'tile grid'], ['c', 'compare two models side by side'], ['[  ]', 'opacity'],
  ['1 … 9', 'go to the most attended tiles'], ['0', 'the whole slide'], ['a', 'draw an annotation'], ['?', 'this list'],
];

const page = document.getElementById('page');
const bar = document.getElementById('bar');
const noticeBoard = document.getElementById('notice');
const context = { about: null, query: { ...START }, place: null, notice, fail };
let shown = null;

function notice(text) {
  replace(noticeBoard, text && el('div', { class: 'notice' }, text, el('button', { type: 'button', 'aria-label': 'Close', onclick: () => notice('') }, '×')));
}

function fail(error, again) {
  replace(noticeBoard, el('div', { class: 'notice problem', role: 'alert' }, error.message,
    again && el('button', { type: 'button', onclick: () => { notice(''); again(); } }, 'Try again'),
    el('button', { type: 'button', 'aria-label': 'Close', onclick: () => notice('') }, '×')));
}

function theme(next) {
  const chosen = next ?? stored('mhim-theme', '');
  if (next !== undefined) store('mhim-theme', next);
  if (chosen) document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
}

function isDark() {
  return (document.documentElement.dataset.theme ?? (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark';
}

function drawBar() {
  const { about } = context;
  replace(bar,
    el('a', { class: 'brand', href: addressOf(context.query), title: 'To the list (u)' }, el('img', { src: '/static/icon.svg', alt: '', width: 24, height: 24 }), el('strong', {}, 'mhim')),
    el('span', { class: 'title' }, about.title),
    el('span', { class: 'use' }, 'Research use only. Not a medical device.'),
    el('button', { type: 'button', title: 'Light or dark', 'aria-label': 'Light or dark', onclick: () => theme(isDark() ? 'light' : 'dark') }, '◐'),
    el('button', { type: 'button', title: 'Keys (?)', 'aria-label': 'Keys', onclick: showKeys }, '?'));
}

function showKeys() {
  const dialog = el('dialog', { class: 'keys', 'aria-label': 'Keys', onclick: () => dialog.close(), onclose: () => dialog.remove() },
    el('h2', {}, 'Keys'), el('dl', {}, KEYS.flatMap(([key, what]) => [el('dt', {}, el('kbd', {}, key)), el('dd', {}, what)])));
  document.body.append(dialog);
  dialog.showModal();
}

function route() {
  shown?.destroy();
  shown = null;
  notice('');
  const [path, query = ''] = location.hash.replace(/^#/, '').split('?');
  const match = path.match(/^\/slide\/([^/]+)$/);
  if (match) {
    let slideId = '';
    try {
      slideId = decodeURIComponent(match[1]);
    } catch { /* an address that was cut short */ }
    shown = new SlidePage(page, context, slideId, new URLSearchParams(query));
  } else {
    context.query = queryOf(query);
    document.title = `mhim · ${context.about.title}`;
    shown = new WorklistPage(page, context);
  }
  drawBar();
}

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  if (event.key === '?' && !typing(event)) showKeys();
  else if (!shown?.key(event)) return;
  event.preventDefault();
});

async function start() {
  try {
    context.about = await get('/api/about', { onSlow: () => notice('The server is slow to answer; still waiting.') });
  } catch (error) {
    replace(page);
    fail(error, start);
    return;
  }
  window.addEventListener('hashchange', route);
  route();
}

theme();
start();
