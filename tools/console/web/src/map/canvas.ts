/**
 * The map: MapLibre with its own base map, so that nothing is loaded from the internet unless the user turns on online
 * tiles. This module is loaded after the first paint.
 *
 * Changes are drawn at most twice a second and without animations, so that browsers without a graphics card keep up.
 */

import "maplibre-gl/dist/maplibre-gl.css";

import {
  AttributionControl,
  type ExpressionSpecification,
  type GeoJSONSource,
  LngLatBounds,
  Map as MapLibre,
  NavigationControl,
  ScaleControl,
  setWorkerCount,
  setWorkerUrl,
  type StyleSpecification,
  type SymbolLayerSpecification,
} from "maplibre-gl";
import workerUrl from "maplibre-gl/dist/maplibre-gl-worker.mjs?url";
import { feature, mesh } from "topojson-client";
import type { GeometryCollection, Topology } from "topojson-specification";

import type { Fence, Position } from "../contract";
import { STATES, type TruckState } from "../truck_state";
import baseUrl from "./base.json?url";
import type { Passed, Shown } from "./replay";

const DRAW_EVERY_MS = 500;
/** Free space around the trucks and fences. */
const MARGIN_PX = 48;
const LEGEND_PX = 20;
const NAMED_TRUCKS = 50;
/** Up to zoom level CLUSTER_TO_ZOOM, three or more trucks within CLUSTER_PX are shown as one disc with their number. */
const CLUSTER_PX = 34;
const CLUSTER_TO_ZOOM = 10;
/** The maximum number of times shown along a trail. */
const TRAIL_TIMES = 8;

type Atlas = Topology<{ countries: GeometryCollection }>;
interface Base {
  coarse: Atlas;
  fine: Atlas;
  towns: [name: string, thousands: number, lon: number, lat: number][];
}

interface Palette {
  sea: string;
  land: string;
  coast: string;
  border: string;
  town: string;
  halo: string;
  fence: string;
  label: string;
  accent: string;
  states: Record<TruckState, string>;
}

const LIGHT: Palette = {
  sea: "#d5dfe7",
  land: "#f6f5f1",
  coast: "#a9b6c1",
  border: "#c9c5ba",
  town: "#7c7a72",
  halo: "#f6f5f1",
  fence: "#55534c",
  label: "#23221f",
  accent: "#1d5fc4",
  states: { moving: "#1d5fc4", "at place": "#17693e", stopped: "#5f5d56", late: "#b0241b", silent: "#85837b" },
};
const DARK: Palette = {
  sea: "#0c0f12",
  land: "#1b1f24",
  coast: "#343a42",
  border: "#33363c",
  town: "#868b93",
  halo: "#14171b",
  fence: "#a3a8b0",
  label: "#e8e9eb",
  accent: "#7fb0ff",
  states: { moving: "#7fb0ff", "at place": "#62c48d", stopped: "#c3c7cd", late: "#ff8f85", silent: "#8b919a" },
};

const FONT = ["system-ui", "sans-serif"];
/** The distance between a truck and its name, in ems. */
const NAME_OFFSET = 1.1;

type Features = GeoJSON.FeatureCollection;
const NOTHING: Features = { type: "FeatureCollection", features: [] };

/** Device ids have up to 128 characters. The map shows only their beginning, and the list shows them in full. */
const NAME_LENGTH = 24;
const NAME_PX = 11;
const shortened = (name: string): string => (name.length > NAME_LENGTH ? `${name.slice(0, NAME_LENGTH - 1)}…` : name);
const label = (name: string): ExpressionSpecification => [
  "case",
  [">", ["length", ["get", name]], NAME_LENGTH],
  ["concat", ["slice", ["get", name], 0, NAME_LENGTH - 1], "…"],
  ["get", name],
];

const point = (at: Position, properties: Record<string, unknown>): GeoJSON.Feature => ({
  type: "Feature",
  properties,
  geometry: { type: "Point", coordinates: at },
});

/** The chosen truck has its own layer on top of the others, and its name is always shown. */
function truckLayer(id: string, chosen: boolean, colours: Palette): SymbolLayerSpecification {
  return {
    id,
    type: "symbol",
    source: chosen ? "chosen" : "trucks",
    ...(chosen ? {} : { filter: ["!", ["has", "point_count"]] as ExpressionSpecification }),
    layout: {
      "icon-image": ["get", "icon"],
      "icon-rotate": ["get", "heading"],
      "icon-rotation-alignment": "map",
      "icon-allow-overlap": true,
      "icon-ignore-placement": true,
      "symbol-sort-key": ["get", "rank"],
      "text-field": label("id"),
      "text-font": FONT,
      "text-size": chosen ? NAME_PX + 1 : NAME_PX,
      "text-anchor": "left",
      "text-offset": [NAME_OFFSET, 0],
      "text-optional": true,
      "text-allow-overlap": chosen,
      "text-max-width": 30,
    },
    paint: {
      "text-color": chosen ? colours.accent : colours.label,
      "text-halo-color": colours.halo,
      "text-halo-width": chosen ? 2.4 : 1.6,
    },
  };
}

function layers(colours: Palette): StyleSpecification["layers"] {
  const is = (name: string, value: unknown): ["==", ["get", string], never] => ["==", ["get", name], value as never];
  return [
    { id: "sea", type: "background", paint: { "background-color": colours.sea } },
    ...(["coarse", "fine"] as const).map((source) => ({
      id: `land-${source}`,
      type: "fill" as const,
      source,
      paint: { "fill-color": colours.land, "fill-outline-color": colours.coast },
    })),
    {
      id: "borders",
      type: "line",
      source: "borders",
      paint: { "line-color": colours.border, "line-width": 1, "line-dasharray": [4, 2] },
    },
    {
      id: "towns",
      type: "symbol",
      source: "towns",
      layout: {
        "text-field": ["get", "name"],
        "text-font": FONT,
        "text-size": ["interpolate", ["linear"], ["get", "thousands"], 20, 11, 1000, 14],
        "symbol-sort-key": ["-", 0, ["get", "thousands"]],
        "text-padding": 14,
      },
      paint: { "text-color": colours.town, "text-halo-color": colours.halo, "text-halo-width": 1.2 },
    },
    {
      id: "fence-areas",
      type: "fill",
      source: "areas",
      paint: {
        "fill-color": ["case", [">", ["get", "there"], 0], colours.accent, colours.fence],
        "fill-opacity": 0.14,
      },
    },
    {
      id: "fence-edges",
      type: "line",
      source: "areas",
      paint: { "line-color": ["case", [">", ["get", "there"], 0], colours.accent, colours.fence], "line-width": 1.2 },
    },
    {
      id: "trail",
      type: "line",
      source: "trail",
      filter: is("kind", "way"),
      layout: { "line-cap": "round", "line-join": "round" },
      paint: { "line-color": colours.accent, "line-width": 2, "line-opacity": 0.55 },
    },
    {
      id: "fences",
      type: "circle",
      source: "fences",
      paint: {
        "circle-radius": ["case", is("kind", "plant"), 6, is("chosen", true), 6, 3.5],
        "circle-color": ["case", [">", ["get", "there"], 0], colours.accent, is("kind", "plant"), colours.fence, colours.land],
        "circle-stroke-color": ["case", [">", ["get", "there"], 0], colours.accent, colours.fence],
        "circle-stroke-width": ["case", is("chosen", true), 3, 1.5],
      },
    },
    {
      id: "fence-names",
      type: "symbol",
      source: "fences",
      minzoom: 9.5,
      layout: {
        "text-field": label("name"),
        "text-font": FONT,
        "text-size": 11,
        "text-anchor": "top",
        "text-offset": [0, 1.4], // below the disc of a small cluster
        "text-max-width": 14,
      },
      paint: { "text-color": colours.fence, "text-halo-color": colours.halo, "text-halo-width": 1.4 },
    },
    {
      id: "trail-points",
      type: "circle",
      source: "trail",
      filter: is("kind", "time"),
      paint: { "circle-radius": 3, "circle-color": colours.accent, "circle-stroke-color": colours.halo, "circle-stroke-width": 1 },
    },
    {
      id: "trail-times",
      type: "symbol",
      source: "trail",
      filter: is("kind", "time"),
      layout: {
        "text-field": ["get", "time"],
        "text-font": FONT,
        "text-size": 11,
        "text-anchor": "right",
        "text-offset": [-0.6, 0],
      },
      paint: { "text-color": colours.accent, "text-halo-color": colours.halo, "text-halo-width": 1.6 },
    },
    {
      id: "clusters",
      type: "circle",
      source: "trucks",
      filter: ["has", "point_count"],
      paint: {
        "circle-color": colours.accent,
        "circle-opacity": 0.88,
        "circle-radius": ["interpolate", ["linear"], ["get", "point_count"], 3, 12, 50, 17, 500, 24],
        "circle-stroke-color": ["case", [">", ["get", "late"], 0], colours.states.late, colours.halo],
        "circle-stroke-width": ["case", [">", ["get", "late"], 0], 3, 1.5],
      },
    },
    {
      id: "cluster-counts",
      type: "symbol",
      source: "trucks",
      filter: ["has", "point_count"],
      layout: {
        "text-field": ["to-string", ["get", "point_count"]],
        "text-font": FONT,
        "text-size": 12,
        "text-allow-overlap": true,
      },
      paint: { "text-color": colours.halo },
    },
    truckLayer("trucks", false, colours),
    truckLayer("chosen-truck", true, colours),
  ];
}

/** A circle with this radius in metres, as a polygon. */
function circle([lon, lat]: Position, radius_m: number): Position[] {
  const north = radius_m / 111_200;
  const east = north / Math.max(0.01, Math.cos((lat * Math.PI) / 180));
  return Array.from({ length: 49 }, (_, i) => {
    const angle = (i / 48) * 2 * Math.PI;
    return [lon + east * Math.sin(angle), lat + north * Math.cos(angle)];
  });
}

/** A shape per state, so that colour is not the only difference. */
const SHAPES: Record<TruckState, (pen: CanvasRenderingContext2D) => void> = {
  moving(pen) {
    pen.moveTo(0, -10);
    pen.lineTo(7.5, 8);
    pen.lineTo(0, 4.5);
    pen.lineTo(-7.5, 8);
    pen.closePath();
  },
  "at place": (pen) => pen.arc(0, 0, 7, 0, 2 * Math.PI),
  stopped: (pen) => pen.roundRect(-6, -6, 12, 12, 2),
  late(pen) {
    pen.moveTo(0, -9.5);
    pen.lineTo(9.5, 0);
    pen.lineTo(0, 9.5);
    pen.lineTo(-9.5, 0);
    pen.closePath();
  },
  silent(pen) {
    pen.arc(0, 0, 7, 0, 2 * Math.PI);
    pen.moveTo(3.2, 0);
    pen.arc(0, 0, 3.2, 0, 2 * Math.PI, true);
  },
};

function icon(state: TruckState, fill: string, rim: string, size: number): ImageData {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size * 2;
  const pen = canvas.getContext("2d") as CanvasRenderingContext2D;
  pen.translate(size, size);
  pen.scale(size / 12, size / 12);
  pen.beginPath();
  SHAPES[state](pen);
  pen.lineJoin = "round";
  pen.lineWidth = 3.5;
  pen.strokeStyle = rim;
  pen.stroke();
  pen.fillStyle = fill;
  pen.fill();
  return pen.getImageData(0, 0, size * 2, size * 2);
}

/** Return the space that a truck's name needs to the right of the truck, in pixels. */
function nameSpace(pen: CanvasRenderingContext2D, name: string): number {
  return NAME_OFFSET * NAME_PX + pen.measureText(shortened(name)).width;
}

/** Return bounds without outliers, because a single phone at 0°, 0° must not zoom the map out to the whole world. */
function boundsOf(positions: Position[]): LngLatBounds | null {
  if (positions.length === 0) return null;
  const middleOf = (values: number[]): number => values.sort((a, b) => a - b)[values.length >> 1] as number;
  const lon = middleOf(positions.map((each) => each[0]));
  const lat = middleOf(positions.map((each) => each[1]));
  const isNear = (at: Position): boolean => Math.abs(at[0] - lon) < 8 && Math.abs(at[1] - lat) < 8;
  const bounds = new LngLatBounds([lon, lat], [lon, lat]);
  for (const at of positions.filter(isNear)) bounds.extend(at);
  return bounds;
}

export interface Picked {
  truck?: string;
  fence?: string;
}

export interface Options {
  dark: boolean;
  tiles: string | null;
  onPick: (picked: Picked) => void;
}

export class Chart {
  private drawnAt = 0;
  private timer = 0;
  private readonly waiting = new Map<string, Features>();
  private readonly drawn = new Map<string, string>();
  private fitted = false;

  private constructor(
    private readonly map: MapLibre,
    private readonly element: HTMLElement,
  ) {}

  static async make(element: HTMLElement, options: Options): Promise<Chart> {
    const base = (await (await fetch(baseUrl)).json()) as Base;
    setWorkerUrl(workerUrl);
    setWorkerCount(1);
    const colours = options.dark ? DARK : LIGHT;
    const source = (data: GeoJSON.GeoJSON, extra = {}) => ({ type: "geojson" as const, data, ...extra });
    const map = new MapLibre({
      container: element,
      style: {
        version: 8,
        sources: {
          coarse: source(feature(base.coarse, base.coarse.objects.countries)),
          fine: source(feature(base.fine, base.fine.objects.countries)),
          borders: source({
            type: "GeometryCollection",
            geometries: [base.coarse, base.fine].map((atlas) =>
              mesh(atlas, atlas.objects.countries, (one, other) => one !== other),
            ),
          }),
          towns: source({
            type: "FeatureCollection",
            features: base.towns.map(([name, thousands, lon, lat]) => point([lon, lat], { name, thousands })),
          }),
          areas: source(NOTHING),
          fences: source(NOTHING),
          trail: source(NOTHING),
          trucks: source(NOTHING, {
            cluster: true,
            clusterRadius: CLUSTER_PX,
            clusterMaxZoom: CLUSTER_TO_ZOOM,
            clusterMinPoints: 3,
            clusterProperties: { late: ["+", ["case", ["==", ["get", "state"], "late"], 1, 0]] },
          }),
          chosen: source(NOTHING),
        },
        layers: layers(colours),
      },
      center: [5.8, 53.05],
      zoom: 8,
      maxZoom: 17,
      fadeDuration: 0,
      attributionControl: false,
      dragRotate: false,
      pitchWithRotate: false,
      touchPitch: false,
    });
    await map.once("load");
    const chart = new Chart(map, element);
    chart.paint(colours);
    if (options.tiles) chart.addTiles(options.tiles);
    map.touchZoomRotate.disableRotation();
    map.addControl(new NavigationControl({ showCompass: false }), "top-left");
    map.addControl(new ScaleControl({ maxWidth: 90 }), "bottom-left");
    map.addControl(new AttributionControl({ compact: false, customAttribution: "Natural Earth, GeoNames" }), "bottom-right");
    map.getCanvas().setAttribute("aria-label", "Map of trucks and fences; the lists next to it contain the same information");
    map.on("click", (event) => {
      const { x, y } = event.point;
      const near: [[number, number], [number, number]] = [
        [x - 8, y - 8],
        [x + 8, y + 8],
      ];
      const [hit] = map.queryRenderedFeatures(near, { layers: ["chosen-truck", "trucks", "clusters", "fences"] });
      if (hit?.layer.id === "clusters") {
        const at = (hit.geometry as GeoJSON.Point).coordinates as Position;
        map.jumpTo({ center: at, zoom: Math.min(map.getZoom() + 2, CLUSTER_TO_ZOOM + 1) });
        return;
      }
      const id = hit?.properties["id"] as string | undefined;
      if (!hit || !id) options.onPick({});
      else options.onPick(hit.layer.id === "fences" ? { fence: id } : { truck: id });
    });
    const pointing = (kind: string) => () => {
      map.getCanvas().style.cursor = kind;
    };
    for (const layer of ["chosen-truck", "trucks", "clusters", "fences"]) {
      map.on("mouseenter", layer, pointing("pointer"));
      map.on("mouseleave", layer, pointing(""));
    }
    element.dataset["ready"] = "yes";
    return chart;
  }

  /** The chosen truck has its own source, so that it is never in a cluster or covered by another truck. */
  trucks(trucks: readonly (Shown & { state: TruckState })[], chosen: string): void {
    const featureOf = (truck: Shown & { state: TruckState }): GeoJSON.Feature =>
      point(truck.position, {
        id: truck.device_id,
        state: truck.state,
        icon: `${truck.state}${truck.device_id === chosen ? "-chosen" : ""}`,
        heading: truck.state === "moving" ? truck.heading : 0,
        rank: STATES.indexOf(truck.state),
      });
    this.draw(
      "trucks",
      trucks.filter((truck) => truck.device_id !== chosen).map(featureOf),
    );
    this.draw(
      "chosen",
      trucks.filter((truck) => truck.device_id === chosen).map(featureOf),
    );
    this.element.dataset["trucks"] = String(trucks.length);
    this.element.dataset["chosen"] = trucks.some((truck) => truck.device_id === chosen) ? chosen : "";
    this.element.dataset["states"] = STATES.map((state) => trucks.filter((truck) => truck.state === state).length).join();
  }

  fences(fences: Fence[], there: ReadonlyMap<string, number>, chosen: string): void {
    const placed = fences.flatMap((fence) => (fence.centre ? [{ ...fence, centre: fence.centre }] : []));
    const propertiesOf = (fence: Fence) => ({
      id: fence.fence_id,
      name: fence.name,
      kind: fence.kind,
      there: there.get(fence.fence_id) ?? 0,
      chosen: fence.fence_id === chosen,
    });
    this.draw(
      "fences",
      placed.map((fence) => point(fence.centre, propertiesOf(fence))),
    );
    this.draw(
      "areas",
      placed.map((fence) => ({
        type: "Feature",
        properties: propertiesOf(fence),
        geometry: { type: "Polygon", coordinates: [fence.polygon ?? circle(fence.centre, fence.radius_m ?? 100)] },
      })),
    );
    this.element.dataset["fences"] = String(placed.length);
    this.element.dataset["shapes"] = String(placed.filter((fence) => fence.polygon).length);
  }

  /** Draw the trail as a line with times at some of its points. */
  trail(passed: Passed[], time: (at: number) => string): void {
    const line: GeoJSON.Feature = {
      type: "Feature",
      properties: { kind: "way" },
      geometry: { type: "LineString", coordinates: passed.map(([, position]) => position) },
    };
    const every = Math.max(1, Math.ceil(passed.length / TRAIL_TIMES));
    const times = passed
      .filter((_, i) => i % every === 0 && i < passed.length - 1)
      .map(([at, position]) => point(position, { kind: "time", time: time(at) }));
    this.draw("trail", passed.length > 1 ? [line, ...times] : []);
    this.element.dataset["trail"] = String(passed.length);
    this.element.dataset["times"] = times.map((each) => String(each.properties?.["time"])).join(" ");
  }

  /**
   * Zoom to all trucks and fences except outliers, with room for the names of the trucks. Later calls do nothing unless
   * `again` is set.
   */
  fit(trucks: readonly Pick<Shown, "device_id" | "position">[], fences: readonly Position[], again = false): void {
    if (this.fitted && !again) return;
    const bounds = boundsOf([...trucks.map((truck) => truck.position), ...fences]);
    if (!bounds) return;
    this.fitted = true;
    const pen = document.createElement("canvas").getContext("2d") as CanvasRenderingContext2D;
    pen.font = `${NAME_PX}px ${FONT.join()}`;
    const width = this.element.clientWidth;
    // A larger number of trucks is mostly shown as clusters, which have no names.
    const named = trucks.length <= NAMED_TRUCKS ? trucks : [];
    const longest = named.reduce((most, truck) => Math.max(most, nameSpace(pen, truck.device_id)), 0);
    const right = Math.max(MARGIN_PX, Math.min(longest + 8, width / 2));
    const padding = { top: MARGIN_PX + LEGEND_PX, bottom: MARGIN_PX, left: Math.min(MARGIN_PX, width / 8), right };
    this.map.fitBounds(bounds, { padding, maxZoom: 13, animate: false });
    const ends = named
      .map((truck) => ({ x: this.map.project(truck.position).x, space: nameSpace(pen, truck.device_id) }))
      .filter(({ x }) => x >= 0 && x <= width);
    this.element.dataset["namesCut"] = String(ends.filter(({ x, space }) => x + space > width).length);
  }

  show(position: Position): void {
    this.map.jumpTo({ center: position, zoom: Math.max(this.map.getZoom(), 11) });
  }

  theme(dark: boolean): void {
    const colours = dark ? DARK : LIGHT;
    this.paint(colours);
    for (const layer of layers(colours))
      for (const [name, value] of Object.entries(layer.paint ?? {}))
        this.map.setPaintProperty(layer.id, name as Parameters<MapLibre["setPaintProperty"]>[1], value);
  }

  remove(): void {
    clearTimeout(this.timer);
    this.map.remove();
  }

  private addTiles(template: string): void {
    this.map.addSource("tiles", { type: "raster", tiles: [template], tileSize: 256 });
    this.map.addLayer({ id: "tiles", type: "raster", source: "tiles", paint: { "raster-fade-duration": 0 } }, "fence-areas");
  }

  private paint(colours: Palette): void {
    for (const state of STATES)
      for (const chosen of [false, true]) {
        const name = `${state}${chosen ? "-chosen" : ""}`;
        const image = icon(state, colours.states[state], chosen ? colours.label : colours.halo, chosen ? 28 : 22);
        if (this.map.hasImage(name)) this.map.updateImage(name, image);
        else this.map.addImage(name, image, { pixelRatio: 2 });
      }
  }

  private draw(source: string, features: GeoJSON.Feature[]): void {
    // Do not set unchanged data again, because MapLibre would cut it into tiles and draw it again.
    const text = JSON.stringify(features);
    if (this.drawn.get(source) === text) return;
    this.drawn.set(source, text);
    this.waiting.set(source, { type: "FeatureCollection", features });
    if (this.timer) return;
    const due = Math.max(0, this.drawnAt + DRAW_EVERY_MS - performance.now());
    this.timer = window.setTimeout(() => {
      this.timer = 0;
      this.drawnAt = performance.now();
      for (const [name, data] of this.waiting) (this.map.getSource(name) as GeoJSONSource).setData(data);
      this.waiting.clear();
    }, due);
  }
}
