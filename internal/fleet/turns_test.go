package fleet_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signalbox/internal/fleet"
)

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns fleet.Turns[string]
		leave, err := turns.Take(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := turns.Try("a"); ok {
			t.Error("two have the turn at a")
		}
		other, ok := turns.Try("b")
		if !ok {
			t.Fatal("who is at a keeps others from b")
		}
		other()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := turns.Take(short, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the wait ended with %v", err)
		}
		waited := make(chan func())
		go func() {
			next, err := turns.Take(t.Context(), "a")
			if err != nil {
				t.Error(err)
			}
			waited <- next
		}()
		synctest.Wait()
		leave()
		next := <-waited
		if _, ok := turns.Try("a"); ok {
			t.Error("two have the turn at a")
		}
		next()
		if again, ok := turns.Try("a"); !ok {
			t.Error("nobody has the turn, and it is not given")
		} else {
			again()
		}
	})
}

func TestTurnsTogether(t *testing.T) {
	var turns fleet.Turns[int]
	var all sync.WaitGroup
	counts := [3]int{} // each is only touched by who has its turn
	for n := range 300 {
		all.Go(func() {
			leave, err := turns.Take(t.Context(), n%3)
			if err != nil {
				t.Error(err)
				return
			}
			counts[n%3]++
			leave()
		})
	}
	all.Wait()
	if counts != [3]int{100, 100, 100} {
		t.Errorf("%v", counts)
	}
}
