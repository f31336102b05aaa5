"""Make moto's DynamoDB queries read only the partition that they query. A query of an index still reads all items.

For every query, moto collects and sorts all items of the table. With 4,000 items, a query took 79 ms. If it reads only
its partition, it takes 2 ms.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from moto.dynamodb.models.table import Item, Table


def read_partitions_only() -> None:
    Table.query = _narrowed(Table.query)


def _narrowed(query: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(query)
    def narrowed(table: Table, hash_key: object, *args: object, **kwargs: object) -> object:
        if not table.has_range_key:  # each partition is a single item
            return query(table, hash_key, *args, **kwargs)
        # moto's backend passes positional arguments; the index name is the eighth.
        index_name = kwargs.get("index_name", args[6] if len(args) > 6 else None)

        def items() -> list[Item]:
            if index_name is None:
                return list(table.items.get(hash_key, {}).values())
            # The order does not matter, because the query sorts the items that it finds.
            return [item for partition in table.items.values() for item in partition.values()]

        # moto's query calls `all_items`; replace it for this call only. Calls are serialized (dynamodb.py).
        table.all_items = items
        try:
            return query(table, hash_key, *args, **kwargs)
        finally:
            del table.all_items

    return narrowed
