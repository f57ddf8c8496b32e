// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"
)

// validity of every certificate: a lab is thrown away long before.
const validity = 10 * 365 * 24 * time.Hour

// authority signs certificates and keeps them below one directory.
type authority struct {
	dir  string
	name string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	now  time.Time
}

// identity is what a certificate says about its holder.
type identity struct {
	commonName   string
	organization string
	addresses    []netip.Addr
	dnsNames     []string
}

// newAuthority makes a self-signed authority and writes <name>.crt and
// <name>.key.
func newAuthority(dir, name string, now time.Time) (*authority, error) {
	a := &authority{dir: dir, name: name, now: now}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	tmpl := a.template("fairlead-lab "+name, "")
	tmpl.IsCA, tmpl.BasicConstraintsValid = true, true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = nil
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	a.key = key
	return a, writePair(dir, name, der, key)
}

func (a *authority) template(cn, org string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		serial = big.NewInt(a.now.UnixNano())
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: cn},
		NotBefore: a.now.Add(-time.Hour), NotAfter: a.now.Add(validity),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if org != "" {
		t.Subject.Organization = []string{org}
	}
	return t
}

// issue writes <file>.crt and <file>.key for an identity.
func (a *authority) issue(file string, id identity) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("certificate %s: %w", file, err)
	}
	tmpl := a.template(id.commonName, id.organization)
	tmpl.DNSNames = id.dnsNames
	for _, addr := range id.addresses {
		tmpl.IPAddresses = append(tmpl.IPAddresses, addr.AsSlice())
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("certificate %s: %w", file, err)
	}
	return writePair(a.dir, file, der, key)
}

func writePair(dir, name string, der []byte, key *ecdsa.PrivateKey) error {
	if err := writePEM(filepath.Join(dir, name+".crt"), "CERTIFICATE", der); err != nil {
		return err
	}
	kb, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("key %s: %w", name, err)
	}
	return writePEM(filepath.Join(dir, name+".key"), "PRIVATE KEY", kb)
}

func writePEM(path, kind string, der []byte) error {
	b := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	return nil
}

// makePKI writes every key, certificate and kubeconfig of a lab below dir.
func makePKI(dir string, p *Plan, now time.Time) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	ca, err := newAuthority(dir, "ca", now)
	if err != nil {
		return err
	}
	front, err := newAuthority(dir, "front-proxy-ca", now)
	if err != nil {
		return err
	}
	if err := front.issue("front-proxy", identity{commonName: "front-proxy-client"}); err != nil {
		return err
	}
	apiserver := identity{
		commonName: "kube-apiserver",
		addresses: []netip.Addr{
			p.Host(ControlPlane).Address, p.Host(ControlPlane).Second,
			netip.MustParseAddr(kubernetesService), netip.MustParseAddr("127.0.0.1"),
		},
		dnsNames: []string{"localhost", ControlPlane, "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
	}
	if p.dual() {
		apiserver.addresses = append(apiserver.addresses, p.Host(ControlPlane).Address6)
	}
	if err := ca.issue("apiserver", apiserver); err != nil {
		return err
	}
	if err := ca.issue("kubelet-client", identity{commonName: "kube-apiserver-kubelet-client", organization: "system:masters"}); err != nil {
		return err
	}
	if err := serviceAccountKeys(dir); err != nil {
		return err
	}
	users := map[string]identity{
		"admin":              {commonName: "kubernetes-admin", organization: "system:masters"},
		"controller-manager": {commonName: "system:kube-controller-manager"},
		"scheduler":          {commonName: "system:kube-scheduler"},
		"kube-proxy":         {commonName: "system:kube-proxy"},
	}
	for _, h := range p.Of(KindNode) {
		users["kubelet-"+h.Name] = identity{commonName: "system:node:" + h.Name, organization: "system:nodes"}
	}
	for name, id := range users {
		if err := ca.issue(name, id); err != nil {
			return err
		}
		if err := writeKubeconfig(dir, name, p.apiServer()); err != nil {
			return err
		}
	}
	return nil
}

func serviceAccountKeys(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("service account key: %w", err)
	}
	kb, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("service account key: %w", err)
	}
	pb, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("service account key: %w", err)
	}
	if err := writePEM(filepath.Join(dir, "sa.key"), "PRIVATE KEY", kb); err != nil {
		return err
	}
	return writePEM(filepath.Join(dir, "sa.pub"), "PUBLIC KEY", pb)
}

// writeKubeconfig writes <user>.kubeconfig with everything embedded, so that
// the file can be copied.
func writeKubeconfig(dir, user, server string) error {
	data := map[string][]byte{}
	for key, file := range map[string]string{"ca": "ca.crt", "cert": user + ".crt", "key": user + ".key"} {
		b, err := os.ReadFile(filepath.Join(dir, file)) //nolint:gosec // the lab's own state
		if err != nil {
			return fmt.Errorf("kubeconfig: %w", err)
		}
		data[key] = b
	}
	b, err := yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "lab",
		"clusters": []any{map[string]any{"name": "lab", "cluster": map[string]any{"server": server, "certificate-authority-data": data["ca"]}}},
		"users":    []any{map[string]any{"name": user, "user": map[string]any{"client-certificate-data": data["cert"], "client-key-data": data["key"]}}},
		"contexts": []any{map[string]any{"name": "lab", "context": map[string]any{"cluster": "lab", "user": user}}},
	})
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, user+".kubeconfig"), b, 0o600); err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	return nil
}
