// SPDX-License-Identifier: Apache-2.0

package gossipkey_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"github.com/fairlead-lb/fairlead/provider/internal/gossipkey"
)

const namespace = "fairlead-system"

func run(t *testing.T, client *fake.Clientset, during func(recorder *record.FakeRecorder)) {
	t.Helper()
	recorder := record.NewFakeRecorder(16)
	c, err := gossipkey.New(gossipkey.Options{
		Client: client, Namespace: namespace, Recorder: recorder, Agents: newStore(), Nodes: newStore(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	wait(t, time.Minute)
	during(recorder)
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// wait lets the bubble's goroutines work for d of its clock.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
	case <-time.After(d):
	}
	synctest.Wait()
}

func get(t *testing.T, client *fake.Clientset) *corev1.Secret {
	t.Helper()
	s, err := client.CoreV1().Secrets(namespace).Get(t.Context(), gossipkey.SecretName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func secretWith(value string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: gossipkey.SecretName, Namespace: namespace},
		Data:       map[string][]byte{gossipkey.DataKey: []byte(value)},
	}
}

func TestCreatesAbsentSecretAndRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		failures := 3
		client.PrependReactor("create", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
			failures--
			return failures >= 0, nil, errors.New("injected")
		})
		run(t, client, func(*record.FakeRecorder) {
			keys, err := gossipkey.ParseKeys(get(t, client).Data[gossipkey.DataKey])
			if err != nil || len(keys) != 1 || bytes.Equal(keys[0], make([]byte, gossipkey.KeySize)) {
				t.Errorf("keys = %v, %v; want one random key", keys, err)
			}
		})
	})
}

func TestNeverOverwrites(t *testing.T) {
	for name, value := range map[string]string{
		"usable":   base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, gossipkey.KeySize)),
		"unusable": "secret!",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := fake.NewClientset(secretWith(value))
				run(t, client, func(recorder *record.FakeRecorder) {
					if got := string(get(t, client).Data[gossipkey.DataKey]); got != value {
						t.Errorf("keys = %q, want %q untouched", got, value)
					}
					events := len(recorder.Events)
					if want := map[string]int{"usable": 0, "unusable": 1}[name]; events != want {
						t.Fatalf("%d events, want %d", events, want)
					}
					if events == 1 {
						if e := <-recorder.Events; !strings.Contains(e, "NoGossipKey") || strings.Contains(e, value) {
							t.Errorf("event %q: want reason NoGossipKey and no key material", e)
						}
					}
				})
			})
		})
	}
}

func TestRestoresTheSameKeysWhenDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		run(t, client, func(*record.FakeRecorder) {
			before := get(t, client).Data[gossipkey.DataKey]
			if err := client.CoreV1().Secrets(namespace).Delete(t.Context(), gossipkey.SecretName, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			wait(t, time.Minute)
			if after := get(t, client).Data[gossipkey.DataKey]; !bytes.Equal(before, after) {
				t.Errorf("keys changed from %q to %q", before, after)
			}
		})
	})
}

func TestParseKeys(t *testing.T) {
	key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, gossipkey.KeySize))
	for _, tc := range []struct {
		name, value string
		want        int
		err         string
	}{
		{"one", key, 1, ""},
		{"two with blank lines", "\n" + key + "\r\n\n " + key + " \n", 2, ""},
		{"empty", "", 0, "holds no key"},
		{"not base64", key + "\n!", 0, "line 2"},
		{"short", "AAAA", 0, "has 3 bytes, want 32"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			keys, err := gossipkey.ParseKeys([]byte(tc.value))
			if len(keys) != tc.want {
				t.Errorf("%d keys, want %d", len(keys), tc.want)
			}
			if (err != nil) != (tc.err != "") || (err != nil && !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("error %v, want %q", err, tc.err)
			}
		})
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte("AAAA\n"))
	f.Add([]byte(base64.StdEncoding.EncodeToString(make([]byte, gossipkey.KeySize))))
	f.Fuzz(func(t *testing.T, value []byte) {
		keys, err := gossipkey.ParseKeys(value)
		if (err == nil) == (len(keys) == 0) {
			t.Errorf("%d keys and error %v", len(keys), err)
		}
		for _, k := range keys {
			if len(k) != gossipkey.KeySize {
				t.Errorf("key of %d bytes", len(k))
			}
		}
	})
}
