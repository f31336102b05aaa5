-- The pickups in stg_events. They are few; without this table, daily_farm_collections would have to read all events
-- of whole days.
{{ config(
    materialized='incremental',
    incremental_strategy='restate',
    cluster_by=['event_date'],
    meta={'restates': 'pickups'}
) }}

-- depends_on: {{ ref('high_water_mark') }}
-- depends_on: {{ ref('touched_events') }}

{%- set days = replaced_days('may_replace') if is_incremental() %}
{%- set columns %}
    event_key,
    device_id,
    occurred_at,
    event_date,
    {{ litres('metadata') }} AS litres,
    scanned_at,
    read_through
{%- endset %}

SELECT
    {{- columns }}
FROM {{ ref('stg_events') }}
WHERE
    event_type = 'pickup.completed'
    {% if is_incremental() %} AND {{ of_this_run() }} {% endif %}
{% if days %}
    UNION ALL
    SELECT
        {{- columns }}
    FROM {{ ref('stg_events') }}
    WHERE
        event_type = 'pickup.completed'
        AND {{ one_of_days('event_date', days) }}
        AND event_key IN (SELECT event_key FROM {{ ref('touched_events') }} WHERE may_replace)
        AND NOT {{ of_this_run() }}
{% endif %}
