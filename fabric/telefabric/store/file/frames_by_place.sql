-- The stored frame of a step, or the nearest one of its episode.
CREATE INDEX frames_by_place ON frames (run, agent_id, env_index, episode_index, step_index);
