package app

import (
	"context"

	"signalbox/internal/elastic"
	"signalbox/internal/logs"
	"signalbox/internal/nats"
)

// openElasticsearch returns what copies the journal to ELASTICSEARCH_URL. It does
// not connect: the server may be down now and for as long as it likes.
func (a *app) openElasticsearch(ctx context.Context, journal *nats.Journal) (*logs.SinkRunner, error) {
	cfg := a.cfg
	client, err := elastic.New(elastic.Options{
		URL: cfg.ElasticsearchURL.Reveal(), Username: cfg.ElasticsearchUsername, Password: cfg.ElasticsearchPassword.Reveal(),
		IndexPrefix: cfg.ElasticsearchIndexPrefix, IndexPattern: cfg.ElasticsearchIndexPattern, EntityField: cfg.LogsinkEntityField,
		Metrics: elastic.NewMetrics(a.metrics),
	})
	if err != nil {
		return nil, err
	}
	a.onClose(client.Close)
	positions, err := nats.OpenPositions(ctx, journal)
	if err != nil {
		return nil, err
	}
	letters, err := nats.OpenDeadLetters(ctx, journal)
	if err != nil {
		return nil, err
	}
	return logs.OpenSink(ctx, logs.SinkOptions{
		Sink: client, Journal: journal, Positions: positions, DeadLetters: letters, Metrics: logs.NewSinkMetrics(a.metrics), Log: a.log,
	})
}
