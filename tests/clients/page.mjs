// node page.mjs URL CHROMIUM PROFILE: what a visitor of the page sees and does, as one line of JSON.
import { chromium } from "playwright-core";

const [url, executablePath, profile] = process.argv.slice(2);
const args = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];
const seen = { errors: [], outside: [] };
const context = await chromium.launchPersistentContext(profile, { executablePath, args, headless: true, timeout: 120000 });
try {
  const page = await context.newPage();
  page.setDefaultTimeout(120000);
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && seen.errors.push(message.text()));
  page.on("request", (request) => request.url().startsWith(url) || request.url().startsWith("data:") || seen.outside.push(request.url()));

  let tell;
  const told = new Promise((resolve) => { tell = resolve; });
  await page.route("**/indexes", async (route) => { await told; await route.continue(); });
  await page.goto(url);
  await page.fill("#query", "how do I poach an egg"); // before the page knows the indexes
  await page.waitForTimeout(500);
  tell();
  await page.waitForSelector(".hit");
  seen.first = await page.textContent(".hit .id");
  seen.marks = await page.locator(".hit").first().locator("mark").allTextContents();
  seen.status = await page.textContent("#search-status");

  await page.click('.chip[title="es"]');
  await page.waitForFunction(() => [...document.querySelectorAll(".hit .tag")].every((tag) => tag.title === "es"));
  seen.filtered = await page.locator(".hit .tag").evaluateAll((tags) => [...new Set(tags.map((tag) => tag.title))]);
  await page.click('.chip[title="es"]');

  await page.fill("#query", "كيف أسلق بيضة");
  await page.waitForFunction(() => document.querySelector("#search-status").textContent.includes("hits"));
  seen.direction = await page.$eval("#query", (input) => getComputedStyle(input).direction);

  await page.focus("#tab-search");
  await page.keyboard.press("ArrowRight");
  seen.tab = await page.evaluate(() => document.activeElement.id);
  await page.click("#compare-form .go");
  await page.waitForSelector(".big");
  seen.similarity = Number(await page.textContent(".big"));
  seen.languages = await page.locator("#compared .tag").allTextContents();

  await page.focus("#tab-compare");
  await page.keyboard.press("End"); // nothing here translates
  seen.last = await page.evaluate(() => [document.activeElement.id, document.querySelector("#tab-translate").hidden]);
  await page.keyboard.press("Escape");
  await page.click("#tab-embed");
  await page.click("#embed-form .go");
  await page.waitForSelector("#embedded .hit");
  seen.embedded = await page.locator("#embedded .strip").evaluateAll((strips) => strips.map((strip) => strip.children.length));

  seen.wide = {};
  for (const [width, colorScheme] of [[320, "light"], [320, "dark"], [1280, "light"]]) {
    await page.setViewportSize({ width, height: 800 });
    await page.emulateMedia({ colorScheme });
    seen.wide[`${width} ${colorScheme}`] = await page.evaluate(() => [
      document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor,
    ]);
  }
  await page.goto(`${url}/docs`);
  await page.waitForSelector("details");
  seen.documented = await page.locator("summary code").allTextContents();
} finally {
  await context.close();
}
console.log(JSON.stringify(seen));
