-- Only rows loaded so long ago that no file of that time can still be uncommitted.
SELECT event_key
FROM {{ ref('typed_events') }}
WHERE
    invalid_code IS NULL
    AND scanned_at <= DATEADD('minute', -{{ var('lookback_minutes') }}, {{ mark('scanned_through') }})
    {% if not var('full_tests') %}
        AND scanned_at > DATEADD('minute', -{{ var('lookback_minutes') }}, {{ mark('read_from') }})
    {% endif %}
    AND event_key NOT IN (SELECT event_key FROM {{ ref('event_ledger') }})
UNION
SELECT event_key
FROM {{ ref('new_events') }}
WHERE
    invalid_code IS NULL
    AND event_key NOT IN (
        SELECT event_key
        FROM {{ ref('stg_events') }}
        {% if not var('full_tests') %} WHERE {{ restated_part('stg_events') }} {% endif %}
    )
