-- What retention asks: the runs that ended first.
CREATE INDEX runs_by_end ON runs (end_at) WHERE state = 'ended';
