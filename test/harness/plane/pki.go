// SPDX-License-Identifier: Apache-2.0

package plane

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// validity of every certificate: a plane lives for minutes.
const validity = 48 * time.Hour

// authority signs the certificates of one plane and writes them below one directory.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newAuthority writes ca.crt and ca.key.
func newAuthority(dir string, now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the authority: %w", err)
	}
	tmpl := template(1, pkix.Name{CommonName: "fairlead-plane"}, now)
	tmpl.IsCA, tmpl.BasicConstraintsValid = true, true
	tmpl.KeyUsage, tmpl.ExtKeyUsage = x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature, nil
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the authority: %w", err)
	}
	return &authority{dir: dir, cert: cert, key: key}, writePair(dir, "ca", der, key)
}

func template(serial int64, subject pkix.Name, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: subject,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(validity),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

// issue writes NAME.crt and NAME.key for one holder; every one of them may serve on the
// loopback address.
func (a *authority) issue(serial int64, name string, subject pkix.Name, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("issue %s: %w", name, err)
	}
	tmpl := template(serial, subject, now)
	tmpl.DNSNames = []string{"localhost"}
	tmpl.IPAddresses = append(tmpl.IPAddresses, loopback.AsSlice())
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("issue %s: %w", name, err)
	}
	return writePair(a.dir, name, der, key)
}

func writePair(dir, name string, der []byte, key *ecdsa.PrivateKey) error {
	kb, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("key %s: %w", name, err)
	}
	if err := writePEM(filepath.Join(dir, name+".key"), "PRIVATE KEY", kb); err != nil {
		return err
	}
	return writePEM(filepath.Join(dir, name+".crt"), "CERTIFICATE", der)
}

func writePEM(path, kind string, der []byte) error {
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

// makePKI writes all keys and certificates of a plane: the authority, the server's pair
// (also for proxies in front of it), an administrator, the controller manager and the
// key of service accounts' tokens.
func makePKI(dir string, now time.Time) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	a, err := newAuthority(dir, now)
	if err != nil {
		return err
	}
	holders := []struct {
		name    string
		subject pkix.Name
	}{
		{"server", pkix.Name{CommonName: "kube-apiserver"}},
		{"admin", pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}}},
		{"controller-manager", pkix.Name{CommonName: "system:kube-controller-manager"}},
	}
	for i, h := range holders {
		if err := a.issue(int64(i+2), h.name, h.subject, now); err != nil {
			return err
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make the key of service accounts: %w", err)
	}
	kb, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("make the key of service accounts: %w", err)
	}
	pb, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("make the key of service accounts: %w", err)
	}
	if err := writePEM(filepath.Join(dir, "sa.key"), "PRIVATE KEY", kb); err != nil {
		return err
	}
	return writePEM(filepath.Join(dir, "sa.pub"), "PUBLIC KEY", pb)
}
