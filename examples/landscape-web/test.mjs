// Opens the page in a browser and uses it: `node test.mjs PAGE BROWSER BUILDER`. The builder is the
// program of this package. Needs playwright-core.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { createRequire } from 'node:module';

const [file, executablePath, builder] = process.argv.slice(2);
// From NODE_PATH, which `import` ignores.
const { chromium } = createRequire(import.meta.url)('playwright-core');
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
const folder = mkdtempSync(join(tmpdir(), 'landscape-'));

/** Opens a page. Messages on the console, errors and requests of other files fail the test. */
async function open(name = file, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.faults = [];
  page.on('console', message => page.faults.push(message.text()));
  page.on('pageerror', error => page.faults.push(String(error)));
  page.on('request', request => {
    if (!/^(file|data|blob):/.test(request.url())) page.faults.push(request.url());
  });
  await page.goto(pathToFileURL(name).href);
  await page.waitForSelector('tbody tr:nth-child(12) .hash:not(:empty)');
  return page;
}

async function close(page) {
  assert.deepEqual(page.faults, []);
  await page.context().close();
}

/** The table, after the page has drawn what the last input changed. */
async function table(page) {
  await page.evaluate(() => new Promise(done => requestAnimationFrame(() => setTimeout(done))));
  return page.$$eval('tbody tr', rows => rows.map(row => {
    const [name, , end, , here, native, equal] = [...row.cells].map(cell => cell.textContent);
    return { name, end, here, native, equal };
  }));
}
const column = (rows, name) => rows.map(row => row[name]);
const pixels = (page, index) => page.$eval(`.plot:nth-of-type(${index + 1}) canvas`,
  canvas => canvas.toDataURL());
const center = async (page, index) => {
  const box = await page.locator('.start').nth(index).boundingBox();
  return [box.x + box.width / 2, box.y + box.height / 2];
};
const compared = page =>
  page.waitForFunction(() => /^(All|\d+ of)/.test(document.getElementById('check').textContent))
    .then(() => page.textContent('#check'));

/** The hashes that the builder computes for the command on the page. */
async function computeNatively(page) {
  const command = await page.textContent('#native code');
  const start = 'cargo run -- ';
  assert.ok(command.startsWith(start), command);
  const words = command.slice(start.length).split(' ');
  const output = execFileSync(builder, words, { encoding: 'utf8' });
  return output.trim().split('\n').map(line => line.split(/ +/)[1]);
}

const tests = {
  async 'all native hashes are equal here'() {
    const page = await open();
    const rows = await table(page);
    assert.equal(rows.length, 12);
    for (const { name, here, native, equal } of rows) {
      assert.match(here, /^[0-9a-f]{16}$/, name);
      assert.equal(native, here, name);
      assert.equal(equal, 'equal', name);
    }
    assert.equal(new Set(column(rows, 'here')).size, 12);
    const text = await compared(page);
    console.log(`  ${text}`);
    assert.match(text, /^All \d,\d{3} paths computed natively on .* have the same hash here\.$/);
    await close(page);
  },

  async 'a native hash with one other bit differs'() {
    const text = readFileSync(file, 'utf8');
    const [whole, code] = text.match(/"hashes":"([^"]*)"/);
    const bytes = Buffer.from(code, 'base64');
    // The default start of Rosenbrock's valley is one of the grid. adagrad is the third rule.
    const { native } = JSON.parse(text.match(/id="data">(.*?)<\/script>/s)[1]);
    const setting = native.settings.findIndex(([f, x, y, lr, , , , , steps]) =>
      f === 0 && x === -1.5 && y === .5 && lr === 1 && steps === 1500);
    bytes[8 * (12 * setting + 2)] ^= 1;
    const broken = join(folder, 'broken.html');
    writeFileSync(broken, text.replace(whole, `"hashes":"${bytes.toString('base64')}"`));
    const page = await open(broken);
    const equal = column(await table(page), 'equal');
    assert.deepEqual(equal.flatMap((word, i) => word === 'differs' ? [i] : []), [2]);
    assert.match(await compared(page), /^1 of \d,\d{3} paths .* have another hash here\.$/);
    await close(page);
  },

  async 'dragging changes the paths'() {
    const page = await open();
    for (const index of [0, 1]) {
      await page.locator('.tab').nth(index).click();
      const [before, image] = [await table(page), await pixels(page, index)];
      const [x, y] = await center(page, index);
      await page.mouse.move(x, y);
      await page.mouse.down();
      await page.mouse.move(x + 61, y + 37, { steps: 5 });
      const during = await table(page);
      assert.ok(during.every((row, i) => row.here !== before[i].here), 'while dragging');
      await page.mouse.up();
      await page.mouse.move(x + 70, y + 40);
      const after = await table(page);
      assert.deepEqual(after, during, 'after the button is released');
      assert.notEqual(await pixels(page, index), image);
      assert.deepEqual(new Set(column(after, 'native')), new Set(['–']));
      assert.deepEqual(new Set(column(after, 'equal')), new Set(['']));
      assert.deepEqual(column(after, 'here'), await computeNatively(page));
    }
    await page.click('#reset');
    assert.ok((await table(page)).every(row => row.equal === 'equal'));
    await close(page);
  },

  async 'a click and the arrow keys move the start'() {
    const page = await open();
    const before = await table(page);
    await page.locator('.plot canvas').first().click({ position: { x: 300, y: 90 } });
    const clicked = await table(page);
    assert.ok(clicked.every((row, i) => row.here !== before[i].here));
    await page.click('#reset');
    await page.locator('.start').first().focus();
    await page.keyboard.press('Shift+ArrowRight');
    await page.keyboard.press('ArrowUp');
    await table(page);
    assert.equal(await page.locator('.start').first().getAttribute('aria-valuetext'),
      'x -1.25, y 0.55');
    assert.deepEqual(column(await table(page), 'here'), await computeNatively(page));
    await close(page);
  },

  async 'a finger drags the start, and otherwise scrolls'() {
    const options = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };
    const page = await open(file, options);
    const before = await table(page);
    const [x, y] = await center(page, 0);
    const session = await page.context().newCDPSession(page);
    const touch = (type, ...touchPoints) =>
      session.send('Input.dispatchTouchEvent', { type, touchPoints });
    await touch('touchStart', { x, y });
    for (let i = 1; i <= 5; i += 1) await touch('touchMove', { x: x + 8 * i, y: y + 6 * i });
    await touch('touchEnd');
    const after = await table(page);
    assert.ok(after.every((row, i) => row.here !== before[i].here));
    const [newX, newY] = await center(page, 0);
    assert.ok(Math.hypot(newX - x - 40, newY - y - 30) < 6, 'the start is under the finger');
    assert.equal(await page.evaluate(() => scrollY), 0);
    // From the middle of the plot.
    await touch('touchStart', { x: 250, y });
    for (let i = 1; i <= 10; i += 1) await touch('touchMove', { x: 250, y: y - 20 * i });
    await touch('touchEnd');
    assert.deepEqual(await table(page), after);
    await page.waitForFunction(() => scrollY > 50);
    await close(page);
  },

  async 'each slider changes the rules that have its hyper-parameter'() {
    const page = await open();
    const labels = await page.$$eval('.slider', all => all.map(one => one.firstChild.textContent));
    const notes = await page.$$eval('.slider small', all => all.map(one => one.textContent));
    assert.deepEqual(labels, ['Learning rate', 'β₁', 'β₂', 'ε', 'Weight decay', 'Steps']);
    const before = await table(page);
    const unchanged = rows =>
      column(rows.filter((row, i) => row.here === before[i].here), 'name');
    for (let i = 0; i < labels.length; i += 1) {
      const input = page.locator('.slider input').nth(i);
      await input.focus();
      await page.keyboard.press('Home');
      const after = await table(page);
      const without = notes[i].match(/^not in (.*)$/)?.[1].split(', ') ?? [];
      // AdaBound's step is its lower bound, with its own learning rate and with less.
      const [lowest, highest] = {
        'Learning rate': [['adabound'], []],
        // The lowest is the default of all rules but AdamW.
        'Weight decay': [column(before, 'name').filter(name => name !== 'adamw'), []],
        'ε': [null, ['sgd', 'adabound', 'lion']],
      }[labels[i]] ?? [without, without];
      // ε = 1e-16 is less than a bit of most denominators, so only the other end is compared.
      if (lowest) assert.deepEqual(unchanged(after), lowest, `${labels[i]}: lowest`);
      assert.ok(after.every(row => row.equal === 'equal'), `${labels[i]}: lowest, native`);
      await page.keyboard.press('End');
      const last = await table(page);
      assert.deepEqual(unchanged(last), highest, `${labels[i]}: highest`);
      assert.ok(last.every(row => row.equal === 'equal'), `${labels[i]}: highest, native`);
      await page.click('#reset');
      assert.deepEqual(await table(page), before, `${labels[i]}: reset`);
    }
    // Two sliders together were not computed natively.
    for (const [i, key] of [[1, 'ArrowLeft'], [5, 'ArrowLeft']]) {
      await page.locator('.slider input').nth(i).focus();
      await page.keyboard.press(key);
    }
    assert.deepEqual(column(await table(page), 'here'), await computeNatively(page));
    await close(page);
  },

  async 'each box hides one path'() {
    const page = await open();
    const all = await pixels(page, 0);
    const images = new Set([all]);
    for (const box of await page.locator('tbody input').all()) {
      await box.focus();
      await page.keyboard.press('Space');
      await table(page);
      images.add(await pixels(page, 0));
      await page.keyboard.press('Space');
      await table(page);
      assert.equal(await pixels(page, 0), all);
    }
    assert.equal(images.size, 13);
    await page.click('#none');
    await table(page);
    assert.ok(!images.has(await pixels(page, 0)));
    await page.click('#all');
    await page.mouse.move(0, 0);
    await table(page);
    assert.equal(await pixels(page, 0), all);
    await close(page);
  },

  async 'it fits narrow screens and follows the colour scheme'() {
    const page = await open();
    const light = await pixels(page, 0);
    await page.emulateMedia({ colorScheme: 'dark' });
    await table(page);
    assert.notEqual(await pixels(page, 0), light);
    for (const width of [320, 390, 768, 1024, 1920]) {
      await page.setViewportSize({ width, height: 800 });
      const right = await page.$$eval('body *', all =>
        Math.max(...all.map(one => one.getBoundingClientRect().right)));
      // The area that reacts around the start may reach over the edge.
      assert.ok(right <= width + 16, `${right} of ${width} pixels`);
    }
    await close(page);
  },
};

let failed = 0;
for (const [name, test] of Object.entries(tests)) {
  try {
    await test();
    console.log(`ok: ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED: ${name}\n${error.stack}`);
  }
}

// Not a test: how long a redraw takes.
const page = await open();
await compared(page);
const [x, y] = await center(page, 0);
await page.mouse.move(x, y);
await page.mouse.down();
const times = [];
for (let i = 1; i <= 60; i += 1) {
  await page.mouse.move(x + i, y + i / 2);
  await table(page);
  times.push((await page.textContent('#time')).match(/[\d.]+ ms/g).map(Number.parseFloat));
}
const median = i => times.map(time => time[i]).sort((a, b) => a - b)[30];
console.log(`A redraw, median of 60: ${await page.textContent('#time')}`.replace(/computed.*/, '')
  + `computed in ${median(0)} ms, drawn in ${median(1)} ms`);

await browser.close();
rmSync(folder, { recursive: true });
process.exit(failed ? 1 : 0);
