package app

import (
	"context"

	"signalbox/internal/elastic"
	"signalbox/internal/logs"
	"signalbox/internal/nats"
)

// openElasticsearch returns the client of ELASTICSEARCH_URL and what copies the
// journal there, with what the server refused. It does not connect: the server may be down now and for as long
// as it likes.
func (a *app) openElasticsearch(ctx context.Context, journal *nats.Journal) (*elastic.Client, *logs.SinkRunner, *logs.Undelivered, error) {
	cfg := a.cfg
	client, err := elastic.New(elastic.Options{
		URL: cfg.ElasticsearchURL.Reveal(), Username: cfg.ElasticsearchUsername, Password: cfg.ElasticsearchPassword.Reveal(),
		IndexPrefix: cfg.ElasticsearchIndexPrefix, IndexPattern: cfg.ElasticsearchIndexPattern, EntityField: cfg.LogsinkEntityField,
		Metrics: elastic.NewMetrics(a.metrics),
	})
	if err != nil {
		return nil, nil, nil, err
	}
	a.onClose(client.Close)
	positions, err := nats.OpenPositions(ctx, journal)
	if err != nil {
		return nil, nil, nil, err
	}
	letters, err := nats.OpenDeadLetters(ctx, journal)
	if err != nil {
		return nil, nil, nil, err
	}
	sink, err := logs.OpenSink(ctx, logs.SinkOptions{
		Sink: client, Journal: journal, Positions: positions, DeadLetters: letters, Metrics: logs.NewSinkMetrics(a.metrics), Log: a.log,
	})
	if err != nil {
		return nil, nil, nil, err
	}
	return client, sink, logs.NewUndelivered(letters, sink), nil
}
