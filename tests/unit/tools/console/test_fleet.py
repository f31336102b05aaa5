"""Test that truck positions and geofence shapes are computed from events in any order, in bounded memory."""

import itertools
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.events import Fence
from tools.console import fleet
from tools.console.fleet import Fleet, Place, Trail, heading_of, places_in
from tools.console.parse_object import Crossing, Position


def position(
    at: float, longitude: float = 5.8, latitude: float = 53.1, device: str = "t1", **more
) -> Position:
    return Position(device, at, at, longitude, latitude, "ping", **more)


def crossing(longitude: float, latitude: float, **more) -> Crossing:
    return Crossing("e", "t1", Fence("farm", "f1"), "enter", "user.entered_geofence",
                    datetime(2026, 11, 23, tzinfo=UTC), position=(longitude, latitude), **more)  # fmt: skip


@pytest.mark.parametrize(
    ("to", "degrees"), [((5.8, 53.2), 0), ((5.9, 53.1), 90), ((5.8, 53.0), 180), ((5.7, 53.1), 270)]
)
def test_heading_is_measured_clockwise_from_north(to, degrees):
    assert heading_of((5.8, 53.1), to) == pytest.approx(degrees, abs=0.2)


def test_heading_across_the_date_line_follows_the_shorter_way():
    assert heading_of((179.99, 0.0), (-179.99, 0.0)) == pytest.approx(90)


def test_stopped_truck_keeps_the_heading_of_its_last_movement():
    known = Fleet()
    known.moved(position(0))
    [row] = known.rows({})
    assert row["heading"] is None
    known.moved(position(60, latitude=53.11))
    known.moved(position(70, latitude=53.110001))
    [row] = known.rows({})
    assert row["heading"] == pytest.approx(0, abs=0.2)
    assert row["speed_kmh"] == pytest.approx(66.7, abs=1)


def test_speed_after_a_long_stop_is_that_of_the_drive():
    known = Fleet()
    for minute in range(0, 120, 5):
        known.moved(position(minute * 60, latitude=53.1 + (minute % 2) * 1e-5))
    known.moved(position(117 * 60, latitude=53.115))
    [row] = known.rows({})
    assert row["speed_kmh"] == pytest.approx(50, abs=1)


def test_heading_sent_by_the_phone_is_shown_unchanged():
    known = Fleet()
    known.moved(position(0, heading=200.0))
    assert known.rows({})[0]["heading"] == 200.0


def test_late_position_is_added_to_the_trail_without_moving_the_truck():
    known = Fleet()
    for at in (100, 300, 200):
        known.moved(position(at, longitude=5 + at / 1000))
    [row] = known.rows({})
    assert row["position"] == (5.3, 53.1)
    assert [point[0] for point in known.trail("t1") or ()] == [100_000, 200_000, 300_000]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 10_000), max_size=60), st.randoms())
def test_trail_is_sorted_by_time_and_has_a_minimum_interval_between_points(times, rng):
    trail = Trail()
    for at in times:
        trail.add(at, 1.0, 2.0)
    points = trail.points()
    assert points == sorted(points)
    assert all(b[0] - a[0] >= 1000 * fleet.TRAIL_EVERY_S - 1 for a, b in itertools.pairwise(points))


def test_length_of_each_trail_and_number_of_trucks_are_limited(monkeypatch):
    monkeypatch.setattr(fleet, "MAX_TRUCKS", 10)
    known = Fleet()
    for n in range(fleet.TRAIL_POINTS + 50):
        known.moved(position(n * 10, device="busy"))
    assert len(known.trail("busy") or ()) == fleet.TRAIL_POINTS
    for n in range(100):
        known.moved(position(1, device=f"mad-{n}"))
    assert len(known.rows({})) == 10
    assert known.forgotten == 91
    assert known.trail("busy") is None


def test_geofence_centre_is_not_moved_by_one_wrong_position():
    known = Fleet()
    for n in range(9):
        known.crossed(crossing(5.8 + n * 1e-5, 53.1))
    known.crossed(crossing(-100.0, 10.0))
    [row] = [place.row(0) for place in known.places.values()]
    assert row["centre"] == pytest.approx((5.80004, 53.1), abs=1e-4)
    assert (row["kind"], row["source"], row["samples"]) == ("farm", "events", 10)
    assert 60 <= row["radius_m"] <= 1000


def test_geofence_shape_from_a_file_has_priority_over_an_event_and_an_event_over_an_estimate():
    known = Fleet([Place(Fence("farm", "f1"), centre=(1.0, 2.0), radius_m=50, source="file")])
    known.crossed(crossing(5.8, 53.1, centre=(5.0, 53.0), radius_m=70.0))
    assert known.places["farm#f1"].centre == (1.0, 2.0)
    known = Fleet()
    known.crossed(crossing(5.8, 53.1))
    known.crossed(crossing(5.8, 53.1, centre=(5.0, 53.0), radius_m=70.0))
    known.crossed(crossing(5.9, 53.2))
    assert (known.places["farm#f1"].centre, known.places["farm#f1"].radius_m) == ((5.0, 53.0), 70.0)


def test_geofences_are_read_from_geojson_and_an_invalid_file_raises_value_error(tmp_path: Path):
    square = [[5, 53], [5.2, 53], [5.2, 53.2], [5, 53.2], [5, 53]]
    features = [
        {"properties": {"tag": "farm", "externalId": "f1", "name": "Hoeve", "radius": 90},
         "geometry": {"type": "Point", "coordinates": [5.8, 53.1]}},
        {"properties": {"tag": "plant", "externalId": "p1"},
         "geometry": {"type": "Polygon", "coordinates": [square]}},
    ]  # fmt: skip
    file = tmp_path / "fences.geojson"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    farm, plant = places_in(file)
    assert plant.radius_m is None
    assert (farm.name, farm.centre, farm.radius_m) == ("Hoeve", (5.8, 53.1), 90)
    assert plant.centre == pytest.approx((5.1, 53.1))
    for wrong in ("{}", "[", '{"features": [{"properties": {}, "geometry": {}}]}'):
        file.write_text(wrong)
        with pytest.raises(ValueError, match=r"fences\.geojson"):
            places_in(file)


@pytest.mark.parametrize(
    ("fields", "geometry", "reason"),
    [
        ({}, None, "no geometry"),
        ({"radius": "150"}, {"type": "Point", "coordinates": [5, 53]}, "a radius that is not a number"),
        ({"radius": 0.5}, {"type": "Point", "coordinates": [5, 53]}, "a radius that is not a number"),
        ({}, {"type": "MultiPolygon", "coordinates": []}, "neither a point nor a polygon"),
    ],
)
def test_file_with_an_invalid_fence_is_refused_with_the_name_of_the_fence(tmp_path, fields, geometry, reason):
    feature = {"properties": {"tag": "farm", "externalId": "f1"} | fields, "geometry": geometry}
    file = tmp_path / "fences.geojson"
    file.write_text(json.dumps({"features": [feature]}))
    with pytest.raises(ValueError, match=f"fence farm/f1 has {reason}"):
        places_in(file)


@pytest.mark.parametrize(
    ("type_", "reason"),
    [
        ("app.backgrounded", "the app was closed or in the background"),
        ("location_permission.denied", "the app can no longer read the phone's location"),
        ("battery.low", "the phone's battery was low"),
        ("driver.logged_out", "the driver signed out"),
        ("user.stopped_trip", "its trip ended"),
        ("user_stopped_trip", "its trip ended"),
        ("pickup.completed", "probably parked, or the phone is off (the truck was stationary)"),
    ],
)
def test_reason_for_silence_depends_on_the_type_of_the_last_event(type_, reason):
    fleet = Fleet()
    fleet.moved(Position("truck-1", 100.0, 100.0, 5.8, 53.1, "user.updated_trip"))
    fleet.heard("truck-1", 160.0, type_)
    fleet.heard("truck-1", 90.0, "an.older.one")
    fleet.heard("nobody", 160.0, type_)
    [row] = fleet.rows({})
    assert (row["last_type"], row["silence"]) == (type_, reason)
    assert row["heard_at"] > row["at"]


def test_reason_for_silence_depends_on_whether_the_truck_was_moving_or_inside_a_geofence():
    fleet = Fleet()
    fleet.moved(Position("truck-1", 100.0, 100.0, 5.8, 53.1, "user.updated_trip"))
    fleet.moved(Position("truck-1", 200.0, 200.0, 5.9, 53.1, "user.updated_trip"))
    assert fleet.rows({})[0]["silence"] == "probably no network, or the phone is off (the truck was moving)"
    inside = fleet.rows({"truck-1": ["farm#1"]})[0]
    assert inside["silence"] == "at a place, where phones send few events"
