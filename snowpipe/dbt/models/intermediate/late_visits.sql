-- The stored visits around the late events of a pair, from a single scan of geofence_visits: visit_windows and
-- restated_days need the last visit before these events, those between them, and the first two after them.
{{ config(materialized='table', post_hook='{{ look_further() }}') }}

-- depends_on: {{ ref('high_water_mark') }}
-- depends_on: {{ ref('touched_pairs') }}

{% if reads_everything() %}

SELECT device_fence_key FROM {{ ref('touched_pairs') }}

{% else %}

{{ visits_near_late_events(2) }}

{% endif %}
