-- A summary of each pair, so that the next run need not read the pair's history. It contains the last visit, the start
-- of the first visit, and the times of the pair's last event (`last_event_at`) and of the last event in the last visit
-- (`visit_last_event_at`).
{{ config(
    materialized='incremental',
    incremental_strategy='restate',
    meta={'restates': 'heads'}
) }}

-- depends_on: {{ ref('high_water_mark') }}
-- depends_on: {{ ref('visit_windows') }}
-- depends_on: {{ ref('touched_pairs') }}
-- depends_on: {{ ref('stg_geofence_events') }}
-- depends_on: {{ ref('geofence_visits') }}
{{ refuse_alone() }}

WITH walked AS (

    SELECT
        *,
        MIN(entered_at) OVER (PARTITION BY device_fence_key) AS first_walked_at
    FROM {{ ref('visits_by_rule') }}
    QUALIFY
        ROW_NUMBER() OVER (PARTITION BY device_fence_key ORDER BY entered_at DESC, entered_event_id DESC) = 1

),

{% if is_incremental() and not reads_everything() %}

pairs AS (

    SELECT
        pairs.*,
        windows.restates_from_event_id <> '' AS has_earlier_visit,
        windows.ends_at,
        windows.ends_at >= '9999-01-01'::TIMESTAMP_NTZ AS is_open_ended
    FROM {{ ref('visit_windows') }} AS windows
    INNER JOIN {{ ref('touched_pairs') }} AS pairs ON windows.device_fence_key = pairs.device_fence_key

)

SELECT
    pairs.device_fence_key,
    IFF(
        pairs.has_earlier_visit,
        pairs.first_entered_at,
        COALESCE(walked.first_walked_at, IFF(pairs.is_open_ended, NULL, pairs.ends_at))
    ) AS first_entered_at,
    pairs.last_event_at,
    {% for column in head_columns() %}
        IFF(pairs.is_open_ended, walked.{{ column | replace('visit_', '') }}, pairs.{{ column }}) AS {{ column }}{{ ',' if not loop.last }}
    {% endfor %}
FROM pairs
LEFT JOIN walked ON pairs.device_fence_key = walked.device_fence_key

{% else %}

pairs AS (

    SELECT
        device_fence_key,
        MAX(occurred_at) AS last_event_at
    FROM {{ ref('stg_geofence_events') }}
    GROUP BY device_fence_key

)

SELECT
    pairs.device_fence_key,
    walked.first_walked_at AS first_entered_at,
    pairs.last_event_at,
    {% for column in head_columns() %}
        walked.{{ column | replace('visit_', '') }} AS {{ column }}{{ ',' if not loop.last }}
    {% endfor %}
FROM pairs
LEFT JOIN walked ON pairs.device_fence_key = walked.device_fence_key

{% endif %}
