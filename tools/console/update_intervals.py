"""How often the console reads each store (rarely where reads cost money), and how often it updates the open pages."""

from dataclasses import dataclass

PAGE_UPDATE_S = 0.5  # between two updates of the open pages
URGENT_UPDATE_S = 0.1  # between two updates if visits have changed, because these are sent sooner


@dataclass(frozen=True)
class Pace:
    """The number of seconds between two reads of each source. For `warehouse` and `reconcile`, 0 means only on demand.

    `live_listing` and `live_visits` apply while the console receives notifications. While no page is open, the archive
    and the notifications are read as usual, the log every `unwatched` seconds, and the other sources not at all.
    """

    listing: float = 2.0
    live_listing: float = 30.0
    logs: float = 2.0
    visits: float = 3.0
    live_visits: float = 30.0
    queues: float = 5.0
    warehouse: float = 5.0
    reconcile: float = 300.0
    unwatched: float = 60.0
    # A warehouse statement is abandoned after this many seconds, because Snowflake may never answer.
    give_up_after: int = 6


LOCAL = Pace()
DEPLOYED = Pace(
    listing=5.0,
    logs=10.0,
    visits=15.0,
    live_visits=120.0,
    queues=15.0,
    warehouse=300.0,
    reconcile=0,
    give_up_after=90,  # a suspended warehouse takes a while to resume
)
