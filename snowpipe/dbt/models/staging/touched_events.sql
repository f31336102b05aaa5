-- The contents, from the ledger and from this run, of this run's events that an earlier run has seen or that arrived
-- with different contents. They show on which days and hours the other models may have rows of these events. An event
-- that is not in this table is new and has one content. Complete rows of the ledger are read only for the days on which
-- it may contain one of these events (`known_date`).
{{ config(materialized='table') }}

-- depends_on: {{ ref('high_water_mark') }}

{%- set ledger = ledger_before() %}

WITH arrived AS (

    SELECT DISTINCT
        event_key,
        device_id,
        content_hash,
        event_date,
        received_hour
    FROM {{ ref('repeated_events') }}

),

contents AS (

    SELECT
        event_key,
        device_id,
        content_hash,
        event_date,
        received_hour,
        FALSE AS is_in_ledger,
        FALSE AS is_of_earlier_run
    FROM arrived
    {% if ledger %}
        UNION ALL
        SELECT
            known.event_key,
            NULL AS device_id,
            known.content_hash,
            known.event_date,
            known.received_hour,
            TRUE AS is_in_ledger,
            known.read_through <= {{ mark('completed_through') }} AS is_of_earlier_run
        FROM {{ ledger }} AS known
        WHERE
            {{ among('known.event_date', ref('repeated_events'), 'known_date', 'known_date IS NOT NULL') }}
            AND known.event_key IN (SELECT event_key FROM arrived)
    {% endif %}

),

compared AS (

    SELECT
        event_key,
        MAX(device_id) OVER (PARTITION BY event_key) AS device_id,
        content_hash,
        event_date,
        received_hour,
        is_in_ledger,
        MIN(content_hash) OVER (PARTITION BY event_key) <> MAX(content_hash) OVER (PARTITION BY event_key)
            AS has_conflict,
        MIN(IFF(is_in_ledger, NULL, received_hour)) OVER (PARTITION BY event_key) AS arrived_hour,
        MIN(IFF(is_of_earlier_run, received_hour, NULL)) OVER (PARTITION BY event_key) AS known_hour
    FROM contents

)

SELECT
    event_key,
    device_id,
    content_hash,
    event_date,
    received_hour,
    has_conflict,
    known_hour IS NOT NULL AS is_known,
    -- The first delivery counts, so a delivery received in a later hour than a known one replaces nothing.
    COALESCE(known_hour >= arrived_hour, FALSE) AS may_replace,
    MAX(IFF(is_in_ledger, 1, 0)) = 1 AS is_in_ledger
FROM compared
WHERE known_hour IS NOT NULL OR has_conflict OR is_in_ledger
GROUP BY event_key, device_id, content_hash, event_date, received_hour, has_conflict, known_hour, arrived_hour
