-- The first query checks the ledger, but only for rows so old that every file of their time has been committed. The
-- second checks that the rows read by this run are in stg_events.
-- In Airflow, a test runs with the last model that it reads. stg_events and event_ledger are built in no fixed order,
-- so this test also depends on a model that is built after both.
-- depends_on: {{ ref('event_conflicts') }}
{%- set checked %}
    invalid_code IS NULL
    AND scanned_at <= DATEADD('minute', -{{ var('lookback_minutes') }}, {{ mark('scanned_through') }})
    {% if not var('full_tests') %}
        AND scanned_at > DATEADD('minute', -{{ var('lookback_minutes') }}, {{ mark('read_from') }})
    {% endif %}
{%- endset %}

SELECT event_key
FROM {{ ref('typed_events') }}
WHERE
    {{ checked }}
    AND event_key NOT IN (
        SELECT event_key
        FROM {{ ref('event_ledger') }}
        {% if not var('full_tests') %}
            WHERE {{ among('event_date', ref('typed_events'), 'CAST(occurred_at AS DATE)', checked) }}
        {% endif %}
    )
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
